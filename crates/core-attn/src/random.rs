//! Random numbers as a function of (seed, step, site, index).
//!
//! A generator with hidden state cannot be saved, split over threads or asked again in a backward pass. A [`Key`] can: it
//! is one 64-bit number, folded with whatever names the draw, and the draw itself is a hash of key and index.
//!
//! ```
//! use core_attn::random::Key;
//!
//! let step = Key::new(7).fold(1200);
//! let site = step.site("layers.0.dropout");
//! assert_eq!(site.bits(3), Key::new(7).fold(1200).site("layers.0.dropout").bits(3));
//! assert_ne!(site.bits(3), step.site("layers.1.dropout").bits(3));
//! ```

/// Names one stream of random numbers. Copy it freely: drawing changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64: a bijection of 64-bit words in which every input bit reaches every output bit.
#[inline(always)]
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Key {
    /// The root of a run's randomness.
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(GOLDEN)))
    }

    /// The key of a part, named by a number: a step, a layer, an epoch.
    pub const fn fold(self, n: u64) -> Self {
        Self(mix(self.0
            ^ mix(n
                .wrapping_mul(GOLDEN)
                .wrapping_add(0x632B_E59B_D9B4_E019))))
    }

    /// The key of a part, named by a word: the place in the program where the numbers are used.
    pub const fn site(self, name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash = 0xCBF2_9CE4_8422_2325u64;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01B3);
            i += 1;
        }
        self.fold(hash)
    }

    /// 64 random bits.
    #[inline(always)]
    pub const fn bits(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_mul(GOLDEN)))
    }

    /// A number drawn uniformly from `[0, 1)`, with 53 random bits.
    pub fn uniform(self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number drawn from the standard normal distribution (Box–Muller over two words of the stream).
    pub fn normal(self, index: u64) -> f64 {
        let radius = 1.0 - self.uniform(2 * index); // (0, 1]: its logarithm is finite
        let angle = self.uniform(2 * index + 1);
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// An index drawn uniformly from `0..n`; 0 when `n` is 0.
    pub fn below(self, index: u64, n: usize) -> usize {
        ((u128::from(self.bits(index)) * n as u128) >> 64) as usize
    }

    /// The key as a number, to be stored or handed to a kernel.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The key stored by [`Key::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let key = Key::new(1).site("moments");
        let n = 200_000u64;
        let (mut mean, mut normal, mut square) = (0.0, 0.0, 0.0);
        for i in 0..n {
            mean += key.uniform(i);
            let x = key.normal(i);
            normal += x;
            square += x * x;
        }
        let n = n as f64;
        assert!((mean / n - 0.5).abs() < 3e-3);
        assert!((normal / n).abs() < 8e-3);
        assert!((square / n - 1.0).abs() < 1.2e-2);
    }

    #[test]
    fn neighbouring_keys_are_unrelated() {
        for (a, b) in [
            (Key::new(1), Key::new(2)),
            (Key::new(1).fold(5), Key::new(1).fold(6)),
            (Key::new(1).site("a"), Key::new(1).site("b")),
            (Key::new(1).fold(1).fold(2), Key::new(1).fold(2).fold(1)),
        ] {
            let equal: u32 = (0..1000)
                .map(|i| (!(a.bits(i) ^ b.bits(i))).count_ones())
                .sum();
            assert!(
                (31_000..33_000).contains(&equal),
                "{equal} equal bits of 64000"
            );
        }
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let key = Key::new(3);
        let mut counts = [0usize; 7];
        for i in 0..70_000 {
            counts[key.below(i, 7)] += 1;
        }
        assert!(
            counts.iter().all(|c| (9_600..10_400).contains(c)),
            "{counts:?}"
        );
        assert_eq!(key.below(0, 0), 0);
    }
}
