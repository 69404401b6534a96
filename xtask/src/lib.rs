//! The command line of burn-formers, as a library so that the tests share its code; the program itself is a few lines.
//!
//! Two tables hold it together: [`cli::Command`] lists the commands, one file each under `commands`, and
//! [`registry::ARCHITECTURES`] lists the architectures. Nothing else here knows an architecture by name.

pub mod allocator;
pub mod app;
pub mod backend;
pub mod cli;
pub mod commands;
pub mod fail;
pub mod format;
pub mod models;
pub mod out;
pub mod panics;
pub mod progress;
pub mod registry;
pub mod table;
pub mod verify;

use clap::Parser;
use std::ffi::OsString;

/// Runs one command line, the first word of which is the program, and gives the exit code: 0 for success, 1 for a failure, 2 for
/// wrong usage or bad input, 130 after Ctrl-C.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match cli::Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no failure; where they cannot be printed there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() {
                fail::USAGE
            } else {
                fail::OK
            };
        }
    };
    let words = arguments.iter().skip(1);
    let words = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let result = app::App::new(&cli.global, words).and_then(|app| cli.command.run(&app));
    match result {
        Ok(()) => fail::OK,
        Err(error) => {
            out::note(format!("error: {}", fail::message(&error)));
            fail::exit_code(&error)
        }
    }
}
