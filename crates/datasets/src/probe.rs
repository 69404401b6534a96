//! Questions planted in a text: `#k=v;` tells the value of a key, `?k=v` asks for it again a known distance later.

use serde::{Deserialize, Serialize};

use crate::error::{Result, value};
use crate::make::SplitMix;

/// Where and what to plant. The same spec gives the same bytes on every machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeSpec {
    /// The smallest distance, in bytes from a value to the answer that repeats it.
    pub nearest: usize,
    /// The largest distance.
    pub farthest: usize,
    /// Bytes of the text from one planting to the next, at least.
    pub spacing: usize,
    /// Number of different keys, `a` onwards; a key is not told again before it has been asked for.
    pub keys: usize,
    /// Number of different values, `0` onwards.
    pub values: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// A question in a planted text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Offset of the byte that answers.
    pub at: usize,
    /// How many bytes before it the value was told.
    pub distance: usize,
}

/// A text with questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planted {
    /// The bytes.
    pub text: Vec<u8>,
    /// The questions whose answers can be known, in order.
    pub answers: Vec<Answer>,
}

/// Length of `?k=v` without its last byte.
const ASK: usize = 3;
/// Length of `#k=v;`.
const TELL: usize = 5;

/// A value that has been told and not been asked for yet.
struct Open {
    /// Where the answer is to stand.
    due: usize,
    told: usize,
    key: u8,
    value: u8,
}

impl ProbeSpec {
    /// Checks the values.
    ///
    /// # Errors
    /// [`crate::Error::Value`] naming the key.
    pub fn validate(&self) -> Result<()> {
        // Between a value and its answer stand at least `;` and `?k=`.
        if self.nearest <= ASK + 1 {
            let expected = format!("at least {}", ASK + 2);
            return Err(value("probe.nearest", self.nearest, &expected));
        }
        if self.farthest < self.nearest {
            let expected = format!("at least `nearest` = {}", self.nearest);
            return Err(value("probe.farthest", self.farthest, &expected));
        }
        for (key, n, most) in [
            ("probe.keys", self.keys, 26),
            ("probe.values", self.values, 10),
        ] {
            if !(2..=most).contains(&n) {
                return Err(value(key, n, &format!("from 2 to {most}")));
            }
        }
        match self.spacing {
            0 => Err(value("probe.spacing", 0, "at least 1")),
            _ => Ok(()),
        }
    }

    /// Plants questions in a text, whose own `#`, `?` and `=` become blanks.
    ///
    /// ```
    /// use datasets::ProbeSpec;
    ///
    /// let spec = ProbeSpec { nearest: 10, farthest: 20, spacing: 8, keys: 4, values: 10, seed: 1 };
    /// let planted = spec.plant("Call me Ishmael. Some years ago ".repeat(8).as_bytes())?;
    /// for answer in &planted.answers {
    ///     let told = answer.at - answer.distance;
    ///     assert_eq!(planted.text[answer.at], planted.text[told]);
    ///     assert_eq!(planted.text[answer.at - 2], planted.text[told - 2]); // the key
    ///     assert!((10..=20).contains(&answer.distance));
    /// }
    /// # Ok::<(), datasets::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn plant(&self, text: &[u8]) -> Result<Planted> {
        self.validate()?;
        let mut state = SplitMix::new(self.seed);
        let mut out = Vec::with_capacity(text.len() * 2);
        let mut answers = vec![];
        let mut open: Vec<Open> = vec![];
        let mut since = self.spacing;
        let mut rest = text.iter();
        loop {
            let due = |o: &Open| o.due == out.len() + ASK;
            if let Some(i) = open.iter().position(due) {
                let asked = open.swap_remove(i);
                out.extend([b'?', asked.key, b'=']);
                answers.push(Answer {
                    at: out.len(),
                    distance: out.len() - asked.told,
                });
                out.push(asked.value);
                continue;
            }
            if since >= self.spacing
                && let Some(new) = self.tell(&open, out.len(), &mut state)
            {
                out.extend([b'#', new.key, b'=', new.value, b';']);
                open.push(new);
                since = 0;
                continue;
            }
            let Some(&byte) = rest.next() else { break };
            out.push(match byte {
                b'#' | b'?' | b'=' => b' ',
                byte => byte,
            });
            since += 1;
        }
        Ok(Planted { text: out, answers })
    }

    /// A value to tell at `here`, if a key is free and neither it nor its question would stand in the way of another question.
    fn tell(&self, open: &[Open], here: usize, state: &mut SplitMix) -> Option<Open> {
        let free: Vec<u8> = (0..self.keys as u8)
            .map(|k| b'a' + k)
            .filter(|key| open.iter().all(|o| o.key != *key))
            .collect();
        let told = here + ASK;
        let due = told + self.nearest + state.below(self.farthest - self.nearest + 1);
        // A question takes the places due − ASK ..= due.
        let clear = |o: &Open| o.due.abs_diff(due) > ASK && o.due >= here + TELL + ASK;
        if free.is_empty() || !open.iter().all(clear) {
            return None;
        }
        Some(Open {
            due,
            told,
            key: free[state.below(free.len())],
            value: b'0' + state.below(self.values) as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_where_it_was_told_to_be() {
        let text: Vec<u8> = (0..20_000u32).map(|i| b' ' + (i * 7 % 90) as u8).collect();
        for (nearest, farthest, spacing, keys) in [
            (5, 5, 1, 2),
            (8, 24, 6, 6),
            (330, 400, 40, 16),
            (8, 400, 30, 26),
        ] {
            let spec = ProbeSpec {
                nearest,
                farthest,
                spacing,
                keys,
                values: 10,
                seed: 3,
            };
            let planted = spec.plant(&text).unwrap();
            assert_eq!(planted, spec.plant(&text).unwrap());
            assert!(planted.answers.len() > text.len() / (spacing + farthest) / 2);
            let asked = planted.text.iter().filter(|byte| **byte == b'?').count();
            assert_eq!(asked, planted.answers.len());
            // Whatever is told is asked for, but for what the end of the text cuts off.
            let told = planted.text.iter().filter(|byte| **byte == b'#').count();
            assert!(told - asked <= keys, "{told} told, {asked} asked");
            for answer in &planted.answers {
                let Answer { at, distance } = *answer;
                assert!((nearest..=farthest).contains(&distance));
                let told = at - distance;
                let part = |from: usize, n: usize| &planted.text[from..from + n];
                let key = planted.text[at - 2];
                let value = planted.text[at];
                assert_eq!(part(at - 3, 4), [b'?', key, b'=', value]);
                assert_eq!(part(told - 3, 5), [b'#', key, b'=', value, b';']);
                // Nobody told another value of the key in between.
                let again = planted.text[told + 1..at].windows(2);
                assert!(again.into_iter().all(|w| w != [b'#', key]));
            }
        }
    }

    #[test]
    fn nothing_is_planted_from_a_spec_that_cannot_be() {
        let good = ProbeSpec {
            nearest: 8,
            farthest: 9,
            spacing: 1,
            keys: 2,
            values: 2,
            seed: 0,
        };
        assert!(good.validate().is_ok());
        for (spec, key) in [
            (
                ProbeSpec {
                    nearest: 4,
                    ..good.clone()
                },
                "nearest",
            ),
            (
                ProbeSpec {
                    farthest: 7,
                    ..good.clone()
                },
                "farthest",
            ),
            (
                ProbeSpec {
                    spacing: 0,
                    ..good.clone()
                },
                "spacing",
            ),
            (
                ProbeSpec {
                    keys: 27,
                    ..good.clone()
                },
                "keys",
            ),
            (
                ProbeSpec {
                    values: 1,
                    ..good.clone()
                },
                "values",
            ),
        ] {
            let message = spec.plant(b"text").unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }
}
