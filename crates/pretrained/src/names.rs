//! The nearest name, for error messages.

/// Names longer than this are not compared: the cost grows with the product of the lengths.
const LONGEST_NAME: usize = 256;

/// Most tensor names a misnamed tensor is compared with.
const MOST_CANDIDATES: usize = 2000;

/// The word of `known` that `word` most likely stands for, if one is near.
///
/// Case and the difference of `-` and `_` do not count; up to a third of the letters may differ, or one word may be the
/// beginning of the other.
///
/// ```
/// assert_eq!(pretrained::did_you_mean("hiden-size", ["hidden_size", "nb_heads"]), Some("hidden_size"));
/// assert_eq!(pretrained::did_you_mean("colour", ["hidden_size", "nb_heads"]), None);
/// ```
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST_NAME {
        return None;
    }
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let wanted = plain(word);
    known
        .into_iter()
        .filter(|name| name.len() <= LONGEST_NAME)
        .filter_map(|name| {
            let candidate = plain(name);
            let shorter = wanted.len().min(candidate.len());
            let limit = (wanted.len().max(candidate.len()) / 3).max(1);
            let begins =
                shorter >= 3 && (wanted.starts_with(&candidate) || candidate.starts_with(&wanted));
            let distance = strsim::osa_distance(&wanted, &candidate);
            // One-letter names are all at distance one from each other, which says nothing.
            let near = distance == 0 || (distance <= limit && distance < shorter);
            match (near, begins) {
                (true, _) => Some((distance, name)),
                (false, true) => Some((limit + 1, name)),
                (false, false) => None,
            }
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// The tensor of `known` that `name` most likely stands for: the same name behind another prefix, or one with at most
/// a fifth of its letters changed.
pub(crate) fn nearest_tensor<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if name.len() > LONGEST_NAME {
        return None;
    }
    known
        .into_iter()
        .filter(|other| other.len() <= LONGEST_NAME)
        .take(MOST_CANDIDATES)
        .filter_map(|other| {
            if behind_prefix(name, other) || behind_prefix(other, name) {
                return Some((0, other));
            }
            let limit = (name.len().max(other.len()) / 5).max(1);
            let distance = strsim::osa_distance(name, other);
            (distance <= limit && distance < name.len().min(other.len()))
                .then_some((distance, other))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, other)| other)
}

/// Whether `long` is `short` behind a dotted prefix.
fn behind_prefix(long: &str, short: &str) -> bool {
    long.strip_suffix(short)
        .is_some_and(|prefix| prefix.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_wins() {
        let keys = ["hidden_size", "inner_hidden_size", "nb_heads", "lr", "l"];
        assert_eq!(did_you_mean("hiden_size", keys), Some("hidden_size"));
        assert_eq!(did_you_mean("HIDDEN-SIZE", keys), Some("hidden_size"));
        assert_eq!(
            did_you_mean("inner_hiddn_size", keys),
            Some("inner_hidden_size")
        );
        assert_eq!(did_you_mean("hidden", keys), Some("hidden_size"));
        assert_eq!(did_you_mean("nb_head", keys), Some("nb_heads"));
        assert_eq!(did_you_mean("x", keys), None);
        assert_eq!(did_you_mean("dropout", keys), None);
        assert_eq!(did_you_mean(&"h".repeat(100_000), keys), None);
    }

    #[test]
    fn a_prefix_is_nearer_than_a_typo() {
        let names = ["layers.1.w", "module.layers.0.w"];
        assert_eq!(
            nearest_tensor("layers.0.w", names),
            Some("module.layers.0.w")
        );
        assert_eq!(nearest_tensor("layers.2.w", names), Some("layers.1.w"));
        assert_eq!(nearest_tensor("head.bias", names), None);
    }
}
