//! Panics: a bug for the user, a miss for `verify`.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many callers are prepared for a panic at this moment.
static EXPECTED: AtomicUsize = AtomicUsize::new(0);
/// The last panic that somebody was prepared for: the payload alone does not tell where it happened.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Makes an unexpected panic one line that calls it a bug, instead of a dump.
pub fn install() {
    panic::set_hook(Box::new(|info| {
        let text = describe(info);
        if EXPECTED.load(Ordering::SeqCst) > 0 {
            if let Ok(mut last) = LAST.lock() {
                *last = Some(text);
            }
        } else {
            crate::out::note(format!(
                "error: {text}; this is a bug: please report it with the command line and the recipe"
            ));
        }
    }));
}

/// Runs `f`; a panic becomes its message, with the place if [`install`] was called.
///
/// # Errors
/// The message of the panic.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    EXPECTED.fetch_add(1, Ordering::SeqCst);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    EXPECTED.fetch_sub(1, Ordering::SeqCst);
    result.map_err(|payload| {
        let last = LAST.lock().ok().and_then(|mut last| last.take());
        last.unwrap_or_else(|| payload_text(payload.as_ref()))
    })
}

fn describe(info: &PanicHookInfo) -> String {
    let text = payload_text(info.payload());
    match info.location() {
        Some(at) => format!(
            "the program panicked at {}:{}: {text}",
            at.file(),
            at.line()
        ),
        None => format!("the program panicked: {text}"),
    }
}

fn payload_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 3), Ok(3));
        let message = caught(|| panic!("no {}", "luck")).expect_err("a panic");
        assert!(message.contains("no luck"), "{message}");
    }
}
