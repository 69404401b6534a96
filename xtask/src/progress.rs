//! How a long task shows that it is alive: a bar in a terminal, a line every few seconds elsewhere; always on stderr.

use crate::format;
use crate::out;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};
use trainer::{Kind, Level, Observer, Progress, Record, Stage};

/// Without a terminal, how long to be silent between two lines.
const PAUSE: Duration = Duration::from_secs(5);
const STYLE: &str = "{prefix} {bar:24} {pos}/{len} {msg}";

/// A bar in a terminal, lines elsewhere.
#[derive(Debug)]
pub struct Meter {
    bar: Option<ProgressBar>,
    last: Instant,
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter {
    /// A meter that has not shown anything yet.
    pub fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            // The template is a constant: should it ever be wrong, the default style shows as well.
            if let Ok(style) = ProgressStyle::with_template(STYLE) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            last: Instant::now(),
        }
    }

    /// Shows how much is done. `message` is asked for only when it is shown.
    pub fn show(
        &mut self,
        what: &str,
        done: u64,
        total: Option<u64>,
        message: impl Fn() -> String,
    ) {
        // A bar limits its own drawing, but not the making of its text.
        let pause = if self.bar.is_some() {
            PAUSE / 50
        } else {
            PAUSE
        };
        if self.last.elapsed() < pause && total != Some(done) {
            return;
        }
        match &self.bar {
            Some(bar) => {
                match total {
                    Some(total) => bar.set_length(total),
                    None => bar.unset_length(),
                }
                bar.set_prefix(what.to_owned());
                bar.set_message(message());
                bar.set_position(done);
            }
            None if self.last.elapsed() < PAUSE => return,
            None => {
                let of = total.map_or(String::new(), |total| format!("/{total}"));
                out::note(format!("{what} {done}{of} {}", message()).trim_end());
            }
        }
        self.last = Instant::now();
    }

    /// Prints a line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| out::note(text)),
            None => out::note(text),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows a run.
#[derive(Debug)]
pub struct Watcher {
    meter: Meter,
    verbose: bool,
    /// The last values of the training scalars.
    scalars: String,
}

impl Watcher {
    /// Watches; `verbose` also prints each line of the training log.
    pub fn new(verbose: bool) -> Self {
        Self {
            meter: Meter::new(),
            verbose,
            scalars: String::new(),
        }
    }
}

impl Observer for Watcher {
    fn stage(&mut self, index: usize, of: usize, stage: &Stage, done: u64) {
        let number = match of {
            1 => String::new(),
            of => format!("stage {}/{of} ", index + 1),
        };
        let begun = match done {
            0 => String::new(),
            done => format!(", {done} of them done"),
        };
        let text = format!("{number}{}: {} steps{begun}", stage.name, stage.steps);
        self.meter.line(&text);
    }

    fn step(&mut self, progress: &Progress) {
        let scalars = &self.scalars;
        let message = || {
            let mut parts = Vec::new();
            if progress.steps_per_second > 0.0 {
                parts.push(format!("{:.2} steps/s", progress.steps_per_second));
            }
            if let Some((rate, unit)) = progress.work_per_second {
                parts.push(format!("{} {unit}/s", format::count(rate.round())));
            }
            if let Some(left) = progress
                .remaining
                .filter(|_| progress.global < progress.total)
            {
                parts.push(format!("{} left", format::duration(left)));
            }
            if !scalars.is_empty() {
                parts.push(scalars.clone());
            }
            parts.join(" · ")
        };
        let total = Some(progress.steps);
        self.meter
            .show(progress.stage, progress.step, total, message);
    }

    fn record(&mut self, record: &Record) {
        let values = record.values.iter();
        let values = values.map(|(name, value)| format!("{name} {}", format::number(value)));
        let values = values.collect::<Vec<_>>().join(", ");
        match record.kind {
            Kind::Evaluation => {
                let split = record.split.map_or("", trainer::Split::name);
                self.meter
                    .line(&format!("step {}: {split} {values}", record.step));
            }
            Kind::Train => {
                if self.verbose {
                    self.meter.line(&format!("step {}: {values}", record.step));
                }
                self.scalars = values;
            }
            Kind::Time => {}
        }
    }

    fn progress(&mut self, done: u64, total: u64, what: &str) {
        self.meter.show(what, done, Some(total), String::new);
    }

    fn message(&mut self, level: Level, text: &str) {
        match level {
            Level::Info => self.meter.line(text),
            Level::Warning => self.meter.line(&format!("warning: {text}")),
        }
    }
}
