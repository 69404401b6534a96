//! Online k-means: centroids that follow the vectors they are compared with (section 4.1 of the paper).
//!
//! A forward pass compares, and returns what it saw as [`ClusterSums`]; [`OnlineKMeans`] and [`UnitKMeans`] make new
//! centroids of that. Nothing is updated in place, so evaluation, accumulation and recomputation cannot move a centroid.

use crate::config::EmaCountRule;
use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;
use core_attn::init;
use core_attn::random::Key;
use core_attn::routed::Scores;

/// Layer normalisation without scale and bias over the last dimension: `[batch, heads, length, head_dim]` onto the sphere of
/// radius √head_dim. A row of equal numbers becomes zero.
pub fn sphere(x: Tensor<4>, epsilon: f64) -> Tensor<4> {
    let centred = x.clone() - x.mean_dim(3);
    let variance = centred.clone().square().mean_dim(3);
    centred / (variance + epsilon).sqrt()
}

/// Rows divided by their length, `x / max(‖x‖, 1e−12)`; a zero row stays zero and gets no infinite gradient.
pub fn unit<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let square = x.clone().square().sum_dim(D - 1).clamp_min(1e-24);
    x / square.sqrt()
}

/// `x · μ` of every position and cluster: `[batch, heads, length, head_dim]` and `[heads, clusters, head_dim]` to
/// `[batch, heads, length, clusters]`, without gradients.
pub fn similarity(x: &Tensor<4>, means: &Tensor<3>) -> Tensor<4> {
    let [batch, heads, _, width] = x.dims();
    let [_, clusters, _] = means.dims();
    let means = means
        .clone()
        .without_autodiff()
        .swap_dims(1, 2)
        .unsqueeze::<4>()
        .expand([batch, heads, width, clusters]);
    x.clone().without_autodiff().matmul(means)
}

/// The centroid of every position, `[batch, heads, length, head_dim]`; `nearest` as [`Scores::nearest`] gives it.
fn own_centroid(means: Tensor<3>, nearest: &[u32], dims: [usize; 4]) -> Tensor<4> {
    let [_, heads, length, width] = dims;
    let [_, clusters, _] = means.dims();
    let index = rows_of_clusters(nearest, heads, length, clusters, &means.device());
    means
        .reshape([heads * clusters, width])
        .select(0, index)
        .reshape(dims)
}

fn rows_of_clusters(
    nearest: &[u32],
    heads: usize,
    length: usize,
    clusters: usize,
    device: &Device,
) -> Tensor<1, Int> {
    let row = |(i, z): (usize, &u32)| (i / length % heads * clusters) as i32 + *z as i32;
    let rows: Vec<i32> = nearest.iter().enumerate().map(row).collect();
    let n = rows.len();
    Tensor::from_data(TensorData::new(rows, [n]), device)
}

/// `mean((x − stopgrad(μ))²)` over every element, `[1]`, for the centroid μ of each position.
pub fn commitment(x: Tensor<4>, means: &Tensor<3>, nearest: &[u32]) -> Tensor<1> {
    let own = own_centroid(means.clone().without_autodiff(), nearest, x.dims());
    (x - own).square().mean()
}

/// `mean((stopgrad(x) − μ)²)`, `[1]`: what moves the centroids where no average does.
pub fn codebook(x: Tensor<4>, means: Tensor<3>, nearest: &[u32]) -> Tensor<1> {
    let dims = x.dims();
    (x.without_autodiff() - own_centroid(means, nearest, dims))
        .square()
        .mean()
}

/// What one forward pass saw of every cluster. Passes over parts of a batch are added up before the centroids move.
#[derive(Debug, Clone)]
pub struct ClusterSums {
    /// Number of positions nearest to each centroid: `[heads, clusters]`.
    pub count: Tensor<2>,
    /// Sum of their vectors: `[heads, clusters, head_dim]`.
    pub sum: Tensor<3>,
}

impl ClusterSums {
    /// Adds up `[batch, heads, length, head_dim]`. With `skip_zeros` a zero row belongs to no cluster.
    pub fn new(
        x: &Tensor<4>,
        nearest: &[u32],
        clusters: usize,
        rule: EmaCountRule,
        skip_zeros: bool,
    ) -> Self {
        let x = x.clone().without_autodiff();
        let [batch, heads, length, width] = x.dims();
        let device = x.device();
        let blank = match skip_zeros {
            true => core_attn::routed::blank_rows(&x),
            false => vec![false; nearest.len()],
        };
        let mut count = vec![0.0f32; heads * clusters];
        let live = nearest.iter().zip(&blank).enumerate();
        for (i, (z, _)) in live.filter(|(_, (_, blank))| !**blank) {
            let head = match rule {
                EmaCountRule::PerHead => i / length % heads,
                // The reference views `[batch, heads, length, …]` as `[batch · length, heads, …]` without a transposition.
                EmaCountRule::Reference => i % heads,
            };
            count[head * clusters + *z as usize] += 1.0;
        }
        let index = rows_of_clusters(nearest, heads, length, clusters, &device);
        let options = (&device, x.dtype());
        let sum = Tensor::<2>::zeros([heads * clusters, width], options).select_assign(
            0,
            index,
            x.reshape([batch * heads * length, width]),
            IndexingUpdateOp::Add,
        );
        Self {
            count: Tensor::from_data(TensorData::new(count, [heads, clusters]), options),
            sum: sum.reshape([heads, clusters, width]),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
        }
    }

    /// The mean direction of each cluster's vectors, of length 1; a cluster without any keeps its centroid.
    pub fn directions(&self, means: &Tensor<3>) -> Tensor<3> {
        let dims = means.dims();
        let [heads, clusters, _] = dims;
        let empty = self
            .count
            .clone()
            .equal_elem(0.0)
            .reshape([heads, clusters, 1])
            .expand(dims);
        unit(self.sum.clone()).mask_where(empty, means.clone().without_autodiff())
    }
}

/// Gives a parameter another value, with or without gradients as before.
pub(crate) fn replace<const D: usize>(
    param: Param<Tensor<D>>,
    value: Tensor<D>,
) -> Param<Tensor<D>> {
    param.map(|old| {
        let value = value.without_autodiff();
        match old.device().is_autodiff() {
            true => value.autodiff().require_grad(),
            false => value,
        }
    })
}

/// Centroids with moving averages of counts and sums (flavor `paper`).
#[derive(Module, Debug)]
pub struct OnlineKMeans {
    /// Centroids: `[heads, clusters, head_dim]`.
    pub means: Param<Tensor<3>>,
    /// Average number of positions of each: `[heads, clusters]`.
    pub ema_count: Param<Tensor<2>>,
    /// Average sum of their vectors: `[heads, clusters, head_dim]`.
    pub ema_means: Param<Tensor<3>>,
}

/// What keeps a division by an empty cluster's count finite.
const SMOOTHING: f64 = 1e-5;

impl OnlineKMeans {
    /// Centroids drawn from `key` on the sphere.
    pub fn new([heads, clusters, width]: [usize; 3], key: Key, device: &Device) -> Self {
        let drawn = init::normal([heads, clusters, width], 1.0, key, device);
        let on_sphere = sphere(drawn.val().without_autodiff().unsqueeze(), 1e-6);
        let means: Tensor<3> = on_sphere.reshape([heads, clusters, width]);
        Self {
            ema_means: replace(
                init::constant([heads, clusters, width], 0.0, device),
                means.clone(),
            ),
            means: replace(drawn, means),
            ema_count: init::constant([heads, clusters], 0.0, device),
        }
    }

    /// Decays the averages once and adds what was seen: `N ← γN + (1 − γ)·count`, `S ← γS + (1 − γ)·sum`,
    /// `μ ← S / Ñ` with `Ñ = (N + ε)/(ΣN + kε)·ΣN` per head.
    #[must_use]
    pub fn updated(self, seen: &ClusterSums, decay: f64) -> Self {
        let [heads, clusters] = self.ema_count.dims();
        let moved = |old: Tensor<2>, new: &Tensor<2>| {
            old.without_autodiff().mul_scalar(decay) + new.clone().mul_scalar(1.0 - decay)
        };
        let count = moved(self.ema_count.val(), &seen.count);
        let sum = self.ema_means.val().without_autodiff().mul_scalar(decay)
            + seen.sum.clone().mul_scalar(1.0 - decay);
        let total = count.clone().sum_dim(1);
        let smooth = count.clone().add_scalar(SMOOTHING)
            / total.clone().add_scalar(clusters as f64 * SMOOTHING)
            * total.clone();
        let old = self.means.val().without_autodiff();
        let dims = old.dims();
        // As long as a head has seen nothing there is nothing to divide by.
        let nothing = total.equal_elem(0.0).reshape([heads, 1, 1]).expand(dims);
        let means = (sum.clone() / smooth.reshape([heads, clusters, 1])).mask_where(nothing, old);
        Self {
            means: replace(self.means, means),
            ema_count: replace(self.ema_count, count),
            ema_means: replace(self.ema_means, sum),
        }
    }
}

/// Centroids that move towards the mean direction of their vectors (flavor `lucidrains`).
#[derive(Module, Debug)]
pub struct UnitKMeans {
    /// Centroids: `[heads, clusters, head_dim]`.
    pub means: Param<Tensor<3>>,
    /// Whether they were taken from data.
    pub initted: bool,
}

/// Iterations of the initialisation.
const ITERATIONS: usize = 10;

impl UnitKMeans {
    /// Centroids drawn from `key`, to be replaced by [`UnitKMeans::initialised`] when the first data is there.
    pub fn new(dims: [usize; 3], key: Key, device: &Device) -> Self {
        Self {
            means: init::normal(dims, 1.0, key, device),
            initted: false,
        }
    }

    /// Centroids from data `[batch, heads, length, head_dim]`, not normalised: the rows drawn by `key` (the same for every
    /// head), then ten iterations.
    #[must_use]
    pub fn initialised(self, x: &Tensor<4>, key: Key) -> Self {
        let [batch, _, length, _] = x.dims();
        let [_, clusters, _] = self.means.dims();
        let rows = batch * length;
        // A shuffle by sorting random words; with too few rows some are taken twice.
        let index: Vec<usize> = if rows >= clusters {
            let mut all: Vec<usize> = (0..rows).collect();
            all.sort_by_key(|i| key.bits(*i as u64));
            all.truncate(clusters);
            all
        } else {
            (0..clusters as u64).map(|i| key.below(i, rows)).collect()
        };
        self.initialised_from(x, &index)
    }

    /// [`UnitKMeans::initialised`] from these rows of `[heads, batch · length, head_dim]`.
    #[must_use]
    pub fn initialised_from(self, x: &Tensor<4>, rows: &[usize]) -> Self {
        let [batch, heads, length, width] = x.dims();
        let x =
            x.clone()
                .without_autodiff()
                .swap_dims(0, 1)
                .reshape([1, heads, batch * length, width]);
        let index: Vec<i32> = rows.iter().map(|i| *i as i32).collect();
        let index = Tensor::from_data(TensorData::new(index, [rows.len()]), &x.device());
        let mut means = x
            .clone()
            .reshape([heads, batch * length, width])
            .select(1, index);
        for _ in 0..ITERATIONS {
            let nearest = Scores::read(similarity(&x, &means)).nearest();
            let rule = EmaCountRule::PerHead;
            let seen = ClusterSums::new(&x, &nearest, rows.len(), rule, false);
            means = seen.directions(&means);
        }
        Self {
            means: replace(self.means, means),
            initted: true,
        }
    }

    /// `μ ← γμ + (1 − γ)·pending`.
    #[must_use]
    pub fn updated(self, pending: &PendingMeans, decay: f64) -> Self {
        let Some(new) = &pending.value else {
            return self;
        };
        let old = self.means.val().without_autodiff();
        let means = old.mul_scalar(decay) + new.clone().mul_scalar(1.0 - decay);
        Self {
            means: replace(self.means, means),
            ..self
        }
    }
}

/// The running mean, over forward passes since the last update, of the mean directions they saw.
#[derive(Debug, Clone, Default)]
pub struct PendingMeans {
    value: Option<Tensor<3>>,
    passes: usize,
}

impl PendingMeans {
    /// Takes in one more forward pass.
    #[must_use]
    pub fn plus(self, seen: &ClusterSums, means: &Tensor<3>) -> Self {
        let new = seen.directions(means);
        let passes = self.passes + 1;
        let share = 1.0 / passes as f64;
        let value = match self.value {
            Some(old) => old.mul_scalar(self.passes as f64 * share) + new.mul_scalar(share),
            None => new,
        };
        Self {
            value: Some(value),
            passes,
        }
    }

    /// `[heads, clusters, head_dim]`; `None` before the first pass.
    pub fn value(&self) -> Option<Tensor<3>> {
        self.value.clone()
    }
}
