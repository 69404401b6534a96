//! What every command needs to know: the global flags, the threads, and whether somebody pressed Ctrl-C.

use crate::cli::Global;
use crate::fail::{self, usage};
use crate::out;
use crate::progress::Watcher;
use anyhow::Context as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The surroundings of a command.
#[derive(Debug)]
pub struct App {
    /// Whether to say more.
    pub verbose: bool,
    /// Whether results are wanted as JSON.
    pub json: bool,
    /// Threads that a CPU backend may use.
    pub threads: usize,
    /// Set by Ctrl-C.
    pub cancel: Arc<AtomicBool>,
    /// The command line, without the program.
    pub command: Vec<String>,
    /// Whether the command looks at `cancel`; else Ctrl-C ends it at once.
    patient: Arc<AtomicBool>,
}

impl App {
    /// Sets up threads and Ctrl-C; once per process.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(global: &Global, command: Vec<String>) -> anyhow::Result<Self> {
        if let Some(threads) = global.threads.map(NonZeroUsize::get) {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let built = pool.build_global();
            built.map_err(|e| usage(format!("--threads {threads} is not possible here: {e}")))?;
        }
        let app = Self {
            verbose: global.verbose,
            json: global.json,
            threads: rayon::current_num_threads(),
            cancel: Arc::default(),
            command,
            patient: Arc::default(),
        };
        let (cancel, patient) = (app.cancel.clone(), app.patient.clone());
        let handler = move || {
            if !patient.load(Ordering::SeqCst) || cancel.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(fail::INTERRUPTED));
            }
            out::note("stopping after this step; press Ctrl-C again to stop at once");
        };
        ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")?;
        Ok(app)
    }

    /// From here on Ctrl-C asks the command to stop; pressed again, it ends the process.
    pub fn wait_for_cancel(&self) {
        self.patient.store(true, Ordering::SeqCst);
    }

    /// A context for work outside a run: it shows progress and can be cancelled, artefacts go to `artefacts` if there is a folder.
    pub fn context(&self, artefacts: Option<PathBuf>) -> trainer::Context {
        self.wait_for_cancel();
        trainer::Context::new(
            artefacts,
            self.cancel.clone(),
            Box::new(Watcher::new(self.verbose)),
        )
    }

    /// Says something that is no result, unless the result is for a machine.
    pub fn note(&self, text: &str) {
        if !self.json {
            out::note(text);
        }
    }
}
