//! `doctor`: what this host offers to a pair, what each thing means, and what to do about it.
//!
//! [`facts`] looks, without changing anything; [`judge`] is a pure function from that to what is said.

mod facts;

use serde_json::{Value, json};
use vmm::Capabilities;

pub use facts::{Facts, Kvm, Tried, look};

/// How good a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Good,
    /// A pair runs, with less.
    Limited,
    /// No pair runs without it.
    Missing,
}

impl Grade {
    fn name(self) -> &'static str {
        match self {
            Grade::Good => "ok",
            Grade::Limited => "limited",
            Grade::Missing => "MISSING",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// How good.
    pub grade: Grade,
    /// What there is.
    pub found: String,
    /// The consequence for a pair.
    pub means: String,
    /// What to do, if anything.
    pub advice: Option<String>,
}

impl Finding {
    fn new(name: &'static str, grade: Grade, found: impl Into<String>, means: impl Into<String>) -> Self {
        Finding { name, grade, found: found.into(), means: means.into(), advice: None }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// What the facts mean, in the order in which they are told.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![device(facts), kind(facts), machine(facts), landings(facts)];
    findings.extend(facts.exit_ns.map(exit_cost));
    findings.extend([clock(facts), counters(facts), taps(facts), locked(facts), rights(facts)]);
    findings
}

/// Whether a pair can run here.
#[must_use]
pub fn can_run(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.grade != Grade::Missing)
}

fn device(facts: &Facts) -> Finding {
    match &facts.kvm_device {
        Ok(()) => Finding::new("/dev/kvm", Grade::Good, "usable", "the kernel runs guests"),
        Err(why) => {
            Finding::new("/dev/kvm", Grade::Missing, format!("not usable: {why}"), "no guest can run here")
                .advise(
                    "switch virtualisation on in the firmware, `modprobe kvm_intel` or `modprobe kvm_amd`; run as root \
                 or as a member of the group that owns /dev/kvm",
                )
        }
    }
}

fn kind(facts: &Facts) -> Finding {
    let (grade, means) = match facts.kvm {
        Kvm::Intel | Kvm::Amd => (Grade::Limited, "not verified yet: pairs were tried on kvm_pvm only"),
        Kvm::Pvm => (
            Grade::Limited,
            "the guest's user mode runs natively, its kernel mode is emulated: fit for small guests, not for an \
             operating system",
        ),
        Kvm::Unknown => (Grade::Limited, "nothing is known about this kind"),
    };
    let finding = Finding::new("kind of KVM", grade, facts.kvm.name(), means);
    match facts.kvm {
        Kvm::Intel | Kvm::Amd => finding.advise("run `./xtask.sh landing` and `./xtask.sh drill` here first"),
        Kvm::Pvm => finding
            .advise("nothing for the guests of today; an operating system will need kvm_intel or kvm_amd"),
        Kvm::Unknown => finding.advise("look which kvm_* module is loaded: `ls /sys/module`"),
    }
}

fn machine(facts: &Facts) -> Finding {
    match &facts.machine {
        Ok(tried) => Finding::new(
            "the machine",
            Grade::Good,
            format!("can be made (table {:032x})", tried.table),
            "both hosts must show the same table, else they refuse to pair",
        ),
        Err(why) => Finding::new("the machine", Grade::Missing, why.as_str(), "no guest can run here")
            .advise("what the message says"),
    }
}

fn landings(facts: &Facts) -> Finding {
    const NAME: &str = "landings";
    let less = "a guest that computes without exits is stopped anywhere, and what differs there is sent over: more \
                traffic, longer waits, nothing lost";
    let Ok(tried) = &facts.machine else {
        return Finding::new(NAME, Grade::Limited, "not known", "only a machine that can be made can tell");
    };
    if let Some(obstacle) = &tried.obstacle {
        let finding = Finding::new(NAME, Grade::Limited, format!("none: {obstacle}"), less);
        return if facts.pml == Some(true) {
            finding.advise(
                "page-modification logging is on (/sys/module/kvm_intel/parameters/pml): put `options kvm_intel \
                 pml=0` into /etc/modprobe.d, stop all guests, load kvm_intel again",
            )
        } else {
            finding.advise("what the message says; pairs run without it")
        };
    }
    match tried.capabilities {
        Capabilities { landing: true, landing_kernel: true, .. } => Finding::new(
            NAME,
            Grade::Good,
            "by the dirty ring, in user and kernel mode (tried on a guest of four stores)",
            "a computing guest has places that both hosts find; its epochs need no repair there if nothing else differs",
        ),
        Capabilities { landing: true, .. } => Finding::new(
            NAME,
            Grade::Good,
            "by the dirty ring, in user mode only (tried on a guest of four stores)",
            "a guest that computes in user mode has places that both hosts find; in kernel mode only exits are such places",
        ),
        _ => Finding::new(NAME, Grade::Limited, "none", less),
    }
}

fn exit_cost(ns: u64) -> Finding {
    let us = ns as f64 / 1000.0;
    Finding::new(
        "cost of an exit",
        if us <= 20.0 { Grade::Good } else { Grade::Limited },
        format!("{us:.1} µs (median of {} port writes from kernel mode)", facts::EXITS),
        "the guest pays it each time that it calls a device, on both hosts",
    )
}

fn clock(facts: &Facts) -> Finding {
    let found = if facts.tsc_scaling {
        "raw, though this processor could scale it"
    } else {
        "raw: this processor lists no scaling"
    };
    Finding::new(
        "time stamp counter",
        Grade::Limited,
        found,
        "it is hidden from the guest, but RDTSC still reads the host's: a guest that uses it differs between the hosts \
         and is repaired, and its time comes from a paravirtual clock that both place alike",
    )
    .advise("nothing yet: a frozen counter is not built; do not let a guest use RDTSC as its clock")
}

fn counters(facts: &Facts) -> Finding {
    let found = if facts.pmu { "there" } else { "not there" };
    Finding::new(
        "performance counters",
        Grade::Good,
        found,
        "not used yet: neither exits nor landings need them, and the guest has none",
    )
}

fn taps(facts: &Facts) -> Finding {
    match &facts.tun {
        Ok(()) => {
            Finding::new("/dev/net/tun", Grade::Good, "usable", "the guest's network card can have its cable")
        }
        Err(why) => Finding::new(
            "/dev/net/tun",
            Grade::Missing,
            format!("not usable: {why}"),
            "the guest would have no network",
        )
        .advise("`modprobe tun`; run as root, or let the user open /dev/net/tun"),
    }
}

fn locked(facts: &Facts) -> Finding {
    const NAME: &str = "locked memory";
    let unlimited = "guest memory stays where it is";
    match facts.lock_limit {
        _ if facts.root => Finding::new(NAME, Grade::Good, "as root without limit", unlimited),
        None => Finding::new(NAME, Grade::Good, "without limit", unlimited),
        Some(bytes) => Finding::new(
            NAME,
            Grade::Limited,
            format!("at most {} MiB", bytes >> 20),
            "a larger guest runs, but the host may swap it: memory that comes back costs time and passes by a landing",
        )
        .advise("raise it above the guest's memory: `ulimit -l`, or LimitMEMLOCK= of the service"),
    }
}

fn rights(facts: &Facts) -> Finding {
    if facts.root {
        return Finding::new("rights", Grade::Good, "root", "taps, bridges and devices can be used and made");
    }
    Finding::new(
        "rights",
        Grade::Limited,
        "not root",
        "a pair runs with devices that this user may open and taps that were made for it",
    )
    .advise("have taps made with `ip tuntap add NAME mode tap user USER`")
}

/// The kinds of positions, for a reader who never heard of them: five lines.
fn positions(facts: &Facts) -> [String; 5] {
    let landings = match &facts.machine {
        Ok(Tried { capabilities: Capabilities { landing: true, landing_kernel: true, .. }, .. }) => {
            "here: yes"
        }
        Ok(Tried { capabilities: Capabilities { landing: true, .. }, .. }) => "here: in user mode",
        _ => "here: no",
    };
    [
        "Both hosts must take an interrupt at the same instruction. A pair has three ways to name that place:".to_owned(),
        "exit          the guest calls the machine (port, device, HLT): the n-th call is the same on both (always there)"
            .to_owned(),
        format!("landing       it computes: its next first store to a page protected on both, by page and RIP ({landings})"),
        "asynchronous  neither came in time: stopped anywhere, and the other host is sent what differs (always there)"
            .to_owned(),
        "In each case both hosts compare afterwards, and nothing leaves the pair before they are equal.".to_owned(),
    ]
}

/// For people: a paragraph for each thing, the kinds of positions, and one last line.
#[must_use]
pub fn render(facts: &Facts) -> String {
    let findings = judge(facts);
    let mut out = String::new();
    for Finding { name, grade, found, means, advice } in &findings {
        out += &format!("{:<8} {name}: {found}\n         {means}\n", grade.name());
        if let Some(advice) = advice {
            out += &format!("         do: {advice}\n");
        }
    }
    out += "\nWhere interrupts go\n";
    for line in positions(facts) {
        out += &format!("  {line}\n");
    }
    let missing: Vec<_> = findings
        .iter()
        .filter(|finding| finding.grade == Grade::Missing)
        .map(|finding| finding.name)
        .collect();
    out += &if missing.is_empty() {
        "\nOK  a host of a pair can run here".to_owned()
    } else {
        format!("\nNO  a host of a pair cannot run here; missing: {}", missing.join(", "))
    };
    out
}

/// For programs, schema `twinrun.doctor/1`.
#[must_use]
pub fn object(facts: &Facts) -> Value {
    let findings = judge(facts);
    let landing = facts.machine.as_ref().map(|tried| tried.capabilities);
    let list: Vec<Value> = findings
        .iter()
        .map(|Finding { name, grade, found, means, advice }| {
            json!({ "name": name, "grade": grade.name(), "found": found, "means": means, "advice": advice })
        })
        .collect();
    json!({
        "schema": "twinrun.doctor/1",
        "ok": can_run(&findings),
        "kvm": facts.kvm.name(),
        "positions": {
            "exit": landing.is_ok_and(|has| has.exit),
            "landing": landing.is_ok_and(|has| has.landing),
            "landing_kernel": landing.is_ok_and(|has| has.landing_kernel),
            "asynchronous": landing.is_ok_and(|has| has.asynchronous),
        },
        "tsc": "raw",
        "exit_ns": facts.exit_ns,
        "findings": list,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capable(landing: bool, landing_kernel: bool) -> Capabilities {
        Capabilities { exact: false, exit: true, landing, landing_kernel, asynchronous: true }
    }

    fn facts() -> Facts {
        Facts {
            kvm_device: Ok(()),
            kvm: Kvm::Amd,
            machine: Ok(Tried { capabilities: capable(true, true), obstacle: None, table: 5 }),
            pml: None,
            exit_ns: Some(2_340),
            tsc_scaling: true,
            pmu: false,
            tun: Ok(()),
            root: true,
            lock_limit: Some(8 << 20),
        }
    }

    fn find(facts: &Facts, name: &str) -> Finding {
        judge(facts).into_iter().find(|finding| finding.name == name).expect("it is looked at")
    }

    #[test]
    fn a_good_host_can_run_a_pair() {
        let told = render(&facts());
        assert!(told.ends_with("OK  a host of a pair can run here"), "{told}");
        assert!(told.contains("cost of an exit: 2.3 µs"), "{told}");
        assert!(told.contains("(here: yes)"), "{told}");
        let object = object(&facts());
        assert_eq!((&object["ok"], &object["positions"]["landing_kernel"]), (&json!(true), &json!(true)));
    }

    #[test]
    fn what_is_missing_is_named_and_has_a_remedy() {
        let mut bad = facts();
        bad.kvm_device = Err("permission denied".into());
        bad.machine = Err("cannot open /dev/kvm".into());
        bad.tun = Err("no such file".into());
        bad.exit_ns = None;
        assert!(render(&bad).ends_with("missing: /dev/kvm, the machine, /dev/net/tun"), "{}", render(&bad));
        assert_eq!(object(&bad)["ok"], json!(false));
        for finding in judge(&bad).iter().filter(|finding| finding.grade == Grade::Missing) {
            assert!(finding.advice.is_some(), "{finding:?}");
        }
    }

    #[test]
    fn a_host_without_landings_still_runs_a_pair_and_is_told_about_pml() {
        let mut less = facts();
        less.machine =
            Ok(Tried { capabilities: capable(false, false), obstacle: Some("it fails".into()), table: 5 });
        assert!(can_run(&judge(&less)));
        let plain = find(&less, "landings");
        assert_eq!((plain.grade, plain.found.as_str()), (Grade::Limited, "none: it fails"));
        less.pml = Some(true);
        assert!(find(&less, "landings").advice.is_some_and(|advice| advice.contains("pml=0")));
        assert!(render(&less).contains("(here: no)"));
    }

    #[test]
    fn landings_in_user_mode_alone_are_said_to_be_that() {
        let mut user = facts();
        user.machine = Ok(Tried { capabilities: capable(true, false), obstacle: None, table: 5 });
        assert!(render(&user).contains("(here: in user mode)"));
        assert!(find(&user, "landings").found.contains("user mode only"));
    }

    #[test]
    fn only_users_have_a_limit_of_locked_memory() {
        assert_eq!(find(&facts(), "locked memory").grade, Grade::Good);
        let user = Facts { root: false, ..facts() };
        assert_eq!(find(&user, "locked memory").found, "at most 8 MiB");
        assert_eq!(find(&Facts { lock_limit: None, ..user }, "locked memory").grade, Grade::Good);
    }

    #[test]
    fn the_kinds_of_positions_fit_a_screen() {
        for line in positions(&facts()) {
            assert!(line.chars().count() <= 118, "{line}");
        }
    }
}
