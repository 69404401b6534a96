//! The architectures.

use crate::fail::usage;
use trainer::Architecture;

/// Every architecture of the workspace, one line each: the only place that names them.
pub static ARCHITECTURES: &[&Architecture] = &[
    &adaptive_span::ARCHITECTURE,
    &compressive_transformer::ARCHITECTURE,
    &nystromformer::ARCHITECTURE,
    &bert::ARCHITECTURE,
    &deebert::ARCHITECTURE,
    &routing_transformer::ARCHITECTURE,
];

/// The architecture of this name.
///
/// # Errors
/// When there is none, with the nearest name.
pub fn find(name: &str) -> anyhow::Result<&'static Architecture> {
    let found = ARCHITECTURES.iter().find(|a| a.name == name).copied();
    found.ok_or_else(|| {
        let names = ARCHITECTURES.iter().map(|a| a.name);
        let hint = match pretrained::did_you_mean(name, names.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", names.collect::<Vec<_>>().join(", ")),
        };
        usage(format!("there is no architecture `{name}`; {hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_unknown_ones_are_answered() {
        for architecture in ARCHITECTURES {
            let same = ARCHITECTURES.iter().filter(|a| a.name == architecture.name);
            assert_eq!(same.count(), 1, "{}", architecture.name);
        }
        assert!(find("no-such-thing").is_err());
    }
}
