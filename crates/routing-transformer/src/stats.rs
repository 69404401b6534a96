//! How the positions are spread over the clusters.

use core_attn::routed::{Members, PrefixMembers};

/// The spread of one layer's positions over its clusters in one forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingStats {
    /// Positions nearest to each centroid: `[heads][clusters]`.
    pub histogram: Vec<Vec<u32>>,
    /// Share of positions, over all heads, that are in no cluster.
    pub uncovered: f64,
    /// The nearest centroid of every position, `batch · heads · length` in row-major order.
    pub nearest: Vec<u32>,
}

impl RoutingStats {
    pub(crate) fn new(nearest: Vec<u32>, heads: usize, length: usize, clusters: usize) -> Self {
        let mut histogram = vec![vec![0; clusters]; heads];
        for (i, z) in nearest.iter().enumerate() {
            histogram[i / length.max(1) % heads][*z as usize] += 1;
        }
        Self {
            histogram,
            uncovered: 0.0,
            nearest,
        }
    }

    fn with_counts(mut self, counts: &[u32]) -> Self {
        let blank = counts.iter().filter(|c| **c == 0).count();
        self.uncovered = blank as f64 / counts.len().max(1) as f64;
        self
    }

    pub(crate) fn with_members(self, members: &Members) -> Self {
        let counts = members.counts();
        self.with_counts(&counts)
    }

    pub(crate) fn with_prefix(self, members: &PrefixMembers) -> Self {
        let counts = members.counts();
        self.with_counts(&counts)
    }

    /// Entropy of the histogram divided by ln k, averaged over heads: 1 where all clusters are used alike, 0 where one takes
    /// everything. With one cluster it is 1.
    pub fn entropy(&self) -> f64 {
        let of = |head: &Vec<u32>| {
            let total: f64 = head.iter().map(|c| f64::from(*c)).sum();
            if head.len() < 2 || total == 0.0 {
                return 1.0;
            }
            let shares = head.iter().map(|c| f64::from(*c) / total);
            let entropy: f64 = shares.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
            entropy / (head.len() as f64).ln()
        };
        self.histogram.iter().map(of).sum::<f64>() / self.histogram.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::RoutingStats;

    #[test]
    fn entropy_is_between_nothing_and_all() {
        let even = RoutingStats::new(vec![0, 1, 2, 3], 1, 4, 4);
        assert!((even.entropy() - 1.0).abs() < 1e-12);
        let one = RoutingStats::new(vec![2, 2, 2, 2], 1, 4, 4);
        assert_eq!(one.entropy(), 0.0);
        // Two heads of two positions: one even over two of four clusters, one in a single cluster.
        let half = RoutingStats::new(vec![0, 1, 3, 3], 2, 2, 4);
        assert_eq!(half.histogram, [[1, 1, 0, 0], [0, 0, 0, 2]]);
        assert!((half.entropy() - 0.25).abs() < 1e-12);
    }
}
