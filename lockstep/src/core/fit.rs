//! Do two hosts fit together? If not: everything that differs, with both values, and what to do.

use crate::message::{Identity, printable};

/// Most differences that one sentence names.
const NAMED_MAX: usize = 6;
/// Most characters of a value that are shown.
const VALUE_MAX: usize = 120;

/// A host's name and what must be equal on both.
pub(super) type Side<'a> = (&'a str, &'a Identity);

/// Why these hosts cannot become a pair. The sentence reads the same on both sides, whoever makes it.
pub(super) fn misfit(one: Side<'_>, other: Side<'_>) -> Option<String> {
    // Sorted by name, so that both journals hold the very same words.
    let (a, b) = if one.0 <= other.0 { (one, other) } else { (other, one) };
    if a.1 == b.1 {
        return None;
    }
    let mut found = settings(a, b);
    let (a_name, b_name) = (name(a), name(b));
    let mut compare = |what: &str, equal: bool, of_a: String, of_b: String| {
        if !equal {
            found.push(format!("{what} {of_a} on {a_name} and {of_b} on {b_name}"));
        }
    };
    let (ia, ib) = (a.1, b.1);
    compare("the pair is", ia.pair == ib.pair, value(&ia.pair), value(&ib.pair));
    let sectors = |identity: &Identity| format!("{:?}", identity.disks);
    compare("each disk's sectors are", ia.disks == ib.disks, sectors(ia), sectors(ib));
    compare("the kernel's digest is", ia.guest == ib.guest, digest(ia.guest), digest(ib.guest));
    compare("the machine table's digest is", ia.table == ib.table, digest(ia.table), digest(ib.table));
    if found.is_empty() {
        // Memory is a setting as well, so that only a host that lies, or counts otherwise, gets here.
        found.push(format!(
            "{a_name} and {b_name} list their settings otherwise, for {} and {} pages of memory",
            a.1.pages, b.1.pages
        ));
    }
    if found.len() > NAMED_MAX {
        let more = found.len() - NAMED_MAX;
        found.truncate(NAMED_MAX);
        found.push(format!("{more} more"));
    }
    Some(format!("{}. {}", found.join("; "), remedy(a.1, b.1)))
}

fn remedy(a: &Identity, b: &Identity) -> &'static str {
    if a.table != b.table {
        "Run the same version of twinrun on both hosts"
    } else if a.settings != b.settings || a.pair != b.pair {
        "Copy the same pair file to both hosts"
    } else if a.guest != b.guest {
        "Copy the same kernel file to both hosts"
    } else {
        "Give both hosts disk images of the same size"
    }
}

fn settings(a: Side<'_>, b: Side<'_>) -> Vec<String> {
    let of = |side: Side<'_>, key: &str| {
        let found = side.1.settings.iter().find(|(name, _)| name == key);
        found.map_or_else(|| "missing".to_owned(), |(_, text)| value(text))
    };
    let mut keys: Vec<&str> = a.1.settings.iter().chain(&b.1.settings).map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| of(a, key) != of(b, key));
    let sentence = |key: &str| {
        format!(
            "{} is {} on {} and {} on {}",
            printable(key, VALUE_MAX),
            of(a, key),
            name(a),
            of(b, key),
            name(b)
        )
    };
    keys.into_iter().map(sentence).collect()
}

fn name(side: Side<'_>) -> String {
    printable(side.0, VALUE_MAX)
}

fn value(text: &str) -> String {
    format!("\"{}\"", printable(text, VALUE_MAX))
}

fn digest(digest: u128) -> String {
    format!("{digest:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            pair: "shop".to_owned(),
            table: 1 << 100,
            guest: 2 << 100,
            settings: vec![
                ("guest.cmdline".to_owned(), "ip=10.0.0.1/24".to_owned()),
                ("guest.memory_mib".to_owned(), "32".to_owned()),
            ],
            pages: 8192,
            disks: vec![64],
        }
    }

    fn refusal(change: impl FnOnce(&mut Identity)) -> String {
        let (own, mut theirs) = (identity(), identity());
        change(&mut theirs);
        let text = misfit(("alpha", &own), ("beta", &theirs)).expect("they differ");
        assert_eq!(
            misfit(("beta", &theirs), ("alpha", &own)).as_ref(),
            Some(&text),
            "same words on both sides"
        );
        text
    }

    #[test]
    fn equal_hosts_fit() {
        assert_eq!(misfit(("alpha", &identity()), ("beta", &identity())), None);
    }

    #[test]
    fn every_difference_is_named_with_both_values_and_a_remedy() {
        let text = refusal(|theirs| {
            theirs.settings[1].1 = "64".to_owned();
            theirs.pages = 16_384;
        });
        assert_eq!(
            text,
            "guest.memory_mib is \"32\" on alpha and \"64\" on beta. Copy the same pair file to both hosts"
        );
        let text = refusal(|theirs| drop(theirs.settings.remove(0)));
        assert!(
            text.starts_with("guest.cmdline is \"ip=10.0.0.1/24\" on alpha and missing on beta. "),
            "{text}"
        );
        let text = refusal(|theirs| theirs.table = 3 << 100);
        assert!(
            text.starts_with("the machine table's digest is 00000010000000000000000000000000 on alpha"),
            "{text}"
        );
        assert!(text.ends_with("Run the same version of twinrun on both hosts"), "{text}");
        let text = refusal(|theirs| theirs.guest = 0);
        assert!(
            text.contains("the kernel's digest is") && text.ends_with("same kernel file to both hosts"),
            "{text}"
        );
        let text = refusal(|theirs| theirs.disks = vec![]);
        assert!(text.contains("sectors are [64] on alpha and [] on beta"), "{text}");
        assert!(refusal(|theirs| theirs.pair = "bank".to_owned()).contains("the pair is \"shop\" on alpha"));
        assert!(refusal(|theirs| theirs.pages = 1).contains("for 8192 and 1 pages"));
    }

    #[test]
    fn a_hostile_peer_cannot_flood_or_control_a_terminal() {
        let text = refusal(|theirs| {
            theirs.settings = (0..1000).map(|n| (format!("k{n}"), "\x1b[2J".repeat(1000))).collect();
        });
        assert!(!text.contains('\x1b') && text.chars().count() < 2_000, "{text}");
        assert!(text.contains("996 more"), "{text}");
    }
}
