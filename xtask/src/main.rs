//! `cargo xtask …`: see `cargo xtask --help`. The table of commands is `cli.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::allocator::tune();
    xtask::panics::install();
    // The hook has said that a panic is a bug.
    let run = std::panic::catch_unwind(|| xtask::run(std::env::args_os()));
    ExitCode::from(run.unwrap_or(xtask::fail::FAILURE))
}
