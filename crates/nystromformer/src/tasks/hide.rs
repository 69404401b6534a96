//! Words to be guessed.

use bert::SpecialIds;
use core_attn::random::Key;

/// Hides a share of a sequence's words, rounded down, at most `most` of them and at least one: 80 % become the mask, 10 % stay,
/// 10 % become a random word other than id 0. Returns places and words, in the order of the places.
pub(super) fn hide(
    ids: &mut [u32],
    key: Key,
    special: SpecialIds,
    vocab: usize,
    share: f64,
    most: usize,
) -> Vec<(usize, u32)> {
    let never = [special.class, special.separator, special.pad];
    let mut places: Vec<usize> = (0..ids.len())
        .filter(|&i| !never.contains(&ids[i]))
        .collect();
    let n = places.len();
    let count = ((n as f64 * share) as usize).clamp(1, most.max(1)).min(n);
    let choose = key.site("choose");
    for i in 0..count {
        places.swap(i, i + choose.below(i as u64, n - i));
    }
    places.truncate(count);
    places.sort_unstable();
    let (how, word) = (key.site("how"), key.site("word"));
    let hidden = places.into_iter().map(|place| {
        let found = ids[place];
        match how.uniform(place as u64) {
            u if u < 0.8 => ids[place] = special.mask,
            u if u < 0.9 => {}
            _ => ids[place] = 1 + word.below(place as u64, vocab.max(2) - 1) as u32,
        }
        (place, found)
    });
    hidden.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_hidden_as_published() {
        let special = SpecialIds {
            pad: 0,
            unknown: 1,
            class: 2,
            separator: 3,
            mask: 4,
        };
        let (mut hidden, mut masked, mut kept) = (0.0, 0.0, 0.0);
        for row in 0..200u64 {
            let mut before: Vec<u32> = (0..300).map(|i| 5 + i % 995).collect();
            before[0] = 2;
            before[299] = 3;
            let mut ids = before.clone();
            let found = hide(&mut ids, Key::new(1).fold(row), special, 1000, 0.15, 80);
            assert_eq!(found.len(), 44, "⌊298 · 0.15⌋");
            for &(place, word) in &found {
                assert_eq!(word, before[place]);
                assert!(!(ids[place] == 0 || place == 0 || place == 299));
                hidden += 1.0;
                masked += f64::from(u8::from(ids[place] == 4));
                kept += f64::from(u8::from(ids[place] == word));
            }
            let changed = (0..300).filter(|&i| ids[i] != before[i]);
            let known: Vec<usize> = found.iter().map(|(place, _)| *place).collect();
            assert!(changed.into_iter().all(|i| known.contains(&i)));
        }
        assert!((masked / hidden - 0.8f64).abs() < 0.02, "{masked}/{hidden}");
        assert!((kept / hidden - 0.1f64).abs() < 0.02, "{kept}/{hidden}");
        let mut ids: Vec<u32> = vec![9; 1000];
        let found = hide(&mut ids, Key::new(1), special, 1000, 0.15, 80);
        assert_eq!(found.len(), 80);
        let mut short = vec![2, 9, 3];
        assert_eq!(
            hide(&mut short, Key::new(1), special, 10, 0.15, 80),
            [(1, 9)]
        );
    }
}
