//! What an error means for the user: one message and an exit code.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// Everything went well.
pub const OK: u8 = 0;
/// Something failed that is not the input's fault, or a check found a difference.
pub const FAILURE: u8 = 1;
/// The command line, a recipe or a file given is wrong.
pub const USAGE: u8 = 2;
/// Stopped by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// An error of the one who called: exit code 2.
#[derive(Debug)]
pub struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Usage {}

/// An error of the one who called: the message says what is wrong and what would be right.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(message.into()))
}

/// The whole reason as one message: each cause is added unless the message already tells it.
pub fn message(error: &anyhow::Error) -> String {
    let mut all = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if all.is_empty() {
            all = text;
        } else if !all.contains(&text) {
            all = format!("{all}: {text}");
        }
    }
    all
}

/// The exit code that an error stands for.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(FAILURE)
}

/// The exit code of one error of a chain, if it decides.
fn code_of(error: &(dyn StdError + 'static)) -> Option<u8> {
    if error.is::<Usage>() {
        return Some(USAGE);
    }
    if let Some(error) = error.downcast_ref::<trainer::Error>() {
        return of_trainer(error);
    }
    if let Some(error) = error.downcast_ref::<pretrained::Error>() {
        return Some(of_pretrained(error));
    }
    if let Some(error) = error.downcast_ref::<datasets::Error>() {
        return Some(of_datasets(error));
    }
    error.downcast_ref::<io::Error>().map(of_io)
}

/// The first error of a chain that decides.
fn of_chain(error: &(dyn StdError + 'static)) -> Option<u8> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = code_of(error) {
            return Some(code);
        }
        next = error.source();
    }
    None
}

fn of_trainer(error: &trainer::Error) -> Option<u8> {
    use trainer::Error as E;
    Some(match error {
        E::Cancelled { .. } => INTERRUPTED,
        E::Pretrained(error) => of_pretrained(error),
        E::Io { source, .. } => of_io(source),
        E::Recipe { .. }
        | E::Value { .. }
        | E::NotEmpty { .. }
        | E::NoRun { .. }
        | E::OtherRecipe { .. }
        | E::Objective { .. }
        | E::Unsupported { .. }
        | E::Golden { .. } => USAGE,
        // An architecture refuses what it was given: a value of the recipe, a text, a tensor.
        E::Other(error) => of_chain(error.as_ref()).unwrap_or(USAGE),
        _ => FAILURE,
    })
}

fn of_pretrained(error: &pretrained::Error) -> u8 {
    match error {
        pretrained::Error::Io { source, .. } => of_io(source),
        pretrained::Error::Hub { .. } => FAILURE,
        _ => USAGE,
    }
}

fn of_datasets(error: &datasets::Error) -> u8 {
    match error {
        datasets::Error::Io { source, .. } => of_io(source),
        datasets::Error::Http { .. } => FAILURE,
        _ => USAGE,
    }
}

fn of_io(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound => USAGE,
        _ => FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn causes_are_told_once() {
        let inner = io::Error::new(io::ErrorKind::PermissionDenied, "permission denied");
        let error = trainer::Error::io("write", "x.json")(inner);
        let error = Err::<(), _>(error).context("saving").expect_err("an error");
        assert_eq!(
            message(&error),
            "saving: could not write x.json: permission denied"
        );
        assert_eq!(exit_code(&error), FAILURE);
    }

    #[test]
    fn bad_input_is_two_and_an_interruption_is_130() {
        let code = |error: trainer::Error| exit_code(&error.into());
        assert_eq!(
            code(trainer::Error::value("training.steps", 0, "at least 1")),
            USAGE
        );
        assert_eq!(code(trainer::Error::cancelled()), INTERRUPTED);
        let missing = datasets::Error::Http {
            url: String::new(),
            message: String::new(),
            remedy: String::new(),
        };
        assert_eq!(code(trainer::Error::other(missing)), FAILURE);
        assert_eq!(code(trainer::Error::other("no such value")), USAGE);
        assert_eq!(exit_code(&usage("x")), USAGE);
        assert_eq!(exit_code(&anyhow::anyhow!("x")), FAILURE);
    }
}
