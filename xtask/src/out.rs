//! The two streams: results on stdout, everything else on stderr.

use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line of the result.
pub fn line(text: impl Display) {
    raw(format!("{text}\n"));
}

/// Prints a part of the result as it is, at once.
pub fn raw(text: impl Display) {
    let mut stdout = io::stdout().lock();
    let written = write!(stdout, "{text}").and_then(|()| stdout.flush());
    if let Err(error) = written {
        if error.kind() != io::ErrorKind::BrokenPipe {
            note(format!("error: cannot write to stdout: {error}"));
        }
        // Whoever read the result has stopped (`| head`), or the disk it goes to is full: there is nothing left to do for it.
        std::process::exit(i32::from(crate::fail::FAILURE));
    }
}

/// Prints a result for machines.
///
/// # Errors
/// When the value is no JSON.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Says something that is no result.
pub fn note(text: impl Display) {
    // A closed stderr is no reason to stop.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
