//! What is being done, while it is being done.

use std::time::{Duration, Instant};

use std::cell::RefCell;

use indicatif::{ProgressBar, ProgressStyle};

/// Numbered steps of a longer task; each ends with one line.
pub(crate) struct Steps {
    total: u32,
    running: RefCell<Option<Step>>,
    count: RefCell<u32>,
}

struct Step {
    name: String,
    begin: Instant,
    bar: ProgressBar,
}

impl Steps {
    pub(crate) fn new(total: u32) -> Self {
        Steps { total, running: RefCell::new(None), count: RefCell::new(0) }
    }

    /// Begins the next step.
    pub(crate) fn begin(&self, name: &str, what: &str) {
        *self.count.borrow_mut() += 1;
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{prefix} {spinner} {msg} [{elapsed}]") {
            bar.set_style(style);
        }
        bar.set_prefix(format!("[{}/{}] {name:<11}", self.count.borrow(), self.total));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        *self.running.borrow_mut() = Some(Step { name: name.to_owned(), begin: Instant::now(), bar });
    }

    /// What the running step does now.
    pub(crate) fn say(&self, what: &str) {
        if let Some(step) = &*self.running.borrow() {
            step.bar.set_message(what.to_owned());
            if step.bar.is_hidden() {
                println!("      {what}");
            }
        }
    }

    /// Ends the running step.
    pub(crate) fn done(&self, result: &str) {
        if let Some(step) = self.running.borrow_mut().take() {
            step.bar.finish_and_clear();
            let seconds = step.begin.elapsed().as_secs_f64();
            println!("[{}/{}] {:<11} {result}   {seconds:.1} s", self.count.borrow(), self.total, step.name);
        }
    }
}
