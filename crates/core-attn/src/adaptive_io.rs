//! Embedding and softmax over large vocabularies, in clusters by frequency (Baevski and Auli 2018; Grave et al. 2016).
//!
//! Ids are sorted by falling frequency and cut into clusters; rarer clusters get narrower vectors. Cluster `i` has vectors
//! of width `hidden / div^i`, projected to the hidden size.

use crate::error::{Result, value};
use crate::init;
use crate::random::Key;
use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;

/// Where the clusters lie and how wide their vectors are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clusters {
    vocab: usize,
    hidden: usize,
    div: usize,
    cutoffs: Vec<usize>,
}

impl Clusters {
    /// `cutoffs.len() + 1` clusters of a vocabulary of `vocab` ids.
    ///
    /// # Errors
    /// Cutoffs that do not rise strictly inside `1..vocab`, `div < 2`, or a last cluster without width.
    pub fn new(vocab: usize, hidden: usize, cutoffs: &[usize], div: usize) -> Result<Self> {
        const OP: &str = "Clusters::new";
        let rising = cutoffs.windows(2).all(|w| w[0] < w[1]);
        let inside = cutoffs.iter().all(|c| (1..vocab).contains(c));
        if !rising || !inside {
            let expected = format!("expected rising numbers in 1..{vocab} (the vocabulary)");
            return Err(value(OP, "cutoffs", format!("{cutoffs:?}"), expected));
        }
        if cutoffs.is_empty() {
            return Err(value(
                OP,
                "cutoffs",
                "[]",
                "expected at least one, the end of the shortlist",
            ));
        }
        if div < 2 {
            return Err(value(OP, "div", div, "expected at least 2"));
        }
        let last = div
            .checked_pow(cutoffs.len() as u32)
            .map_or(0, |d| hidden / d);
        if last == 0 {
            let expected = format!(
                "too large for {} clusters of a hidden size of {hidden}: the last would have no width",
                cutoffs.len() + 1
            );
            return Err(value(OP, "div", div, expected));
        }
        Ok(Self {
            vocab,
            hidden,
            div,
            cutoffs: cutoffs.to_vec(),
        })
    }

    /// Number of clusters, the shortlist included.
    pub fn len(&self) -> usize {
        self.cutoffs.len() + 1
    }

    /// Never: there is always the shortlist.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Ids of a cluster.
    pub fn range(&self, cluster: usize) -> std::ops::Range<usize> {
        let start = if cluster == 0 {
            0
        } else {
            self.cutoffs[cluster - 1]
        };
        start..self.cutoffs.get(cluster).copied().unwrap_or(self.vocab)
    }

    /// Width of a cluster's vectors.
    pub fn width(&self, cluster: usize) -> usize {
        self.hidden / self.div.pow(cluster as u32)
    }

    fn of(&self, id: usize) -> usize {
        self.cutoffs.iter().take_while(|c| id >= **c).count()
    }
}

/// Places of each cluster's tokens, and the order that puts the clusters' rows back into the tokens' order.
struct Sorted {
    places: Vec<Vec<i32>>,
    ids: Vec<Vec<i32>>,
    restore: Vec<i32>,
}

impl Sorted {
    fn new(clusters: &Clusters, tokens: &[usize]) -> Self {
        let n = clusters.len();
        let (mut places, mut ids) = (vec![vec![]; n], vec![vec![]; n]);
        for (place, &id) in tokens.iter().enumerate() {
            let cluster = clusters.of(id);
            places[cluster].push(place as i32);
            ids[cluster].push((id - clusters.range(cluster).start) as i32);
        }
        let mut restore = vec![0; tokens.len()];
        for (row, &place) in places.iter().flatten().enumerate() {
            restore[place as usize] = row as i32;
        }
        Self {
            places,
            ids,
            restore,
        }
    }
}

/// Zero, through the first element of each of these tensors: parameters that a batch does not use then have a gradient of
/// zeros and not none, so that an update rule with momentum moves them as it moves the others.
fn idle<const D: usize>(parameters: &[&Param<Tensor<D>>]) -> Option<Tensor<1>> {
    let first = |p: &&Param<Tensor<D>>| {
        let value = p.val();
        let n = value.shape().num_elements();
        value.reshape([n]).narrow(0, 0, 1).mul_scalar(0.0)
    };
    parameters.iter().map(first).reduce(|a, b| a + b)
}

fn index(values: &[i32], device: &Device) -> Tensor<1, Int> {
    let device = device.clone().without_autodiff();
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
}

/// The ids on the host, each checked to be in the vocabulary.
fn host<const D: usize>(
    op: &'static str,
    tokens: &Tensor<D, Int>,
    clusters: &Clusters,
) -> Result<Vec<usize>> {
    let ids = tokens.to_data();
    ids.iter::<i64>()
        .map(|id| match usize::try_from(id) {
            Ok(i) if i < clusters.vocab => Ok(i),
            _ => Err(value(
                op,
                "id",
                id,
                format!("expected 0..{}", clusters.vocab),
            )),
        })
        .collect()
}

/// Embedding by clusters.
#[derive(Module, Debug)]
pub struct AdaptiveEmbedding {
    /// Per cluster the vectors `[ids, width]`.
    pub weights: Vec<Param<Tensor<2>>>,
    /// Per cluster the projection `[hidden, width]`.
    pub projections: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    clusters: Clusters,
}

impl AdaptiveEmbedding {
    /// Vectors N(0, 1/width) and projections N(0, 1/hidden), so that the scaled result has unit variance.
    pub fn new(clusters: &Clusters, key: Key, device: &Device) -> Self {
        let hidden = clusters.hidden;
        let part = |i: usize| clusters.range(i).len();
        let weight = |i: usize| {
            let std = (clusters.width(i) as f64).powf(-0.5);
            let key = key.site("weight").fold(i as u64);
            init::normal([part(i), clusters.width(i)], std, key, device)
        };
        let projection = |i: usize| {
            let key = key.site("projection").fold(i as u64);
            init::normal(
                [hidden, clusters.width(i)],
                (hidden as f64).powf(-0.5),
                key,
                device,
            )
        };
        Self {
            weights: (0..clusters.len()).map(weight).collect(),
            projections: (0..clusters.len()).map(projection).collect(),
            clusters: clusters.clone(),
        }
    }

    /// `[batch, length]` ids to `[batch, length, hidden]`, scaled by `sqrt(hidden)`.
    ///
    /// # Errors
    /// No ids, or one outside the vocabulary.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>> {
        let [batch, length] = tokens.dims();
        let device = self.weights[0].val().device();
        if batch * length == 0 {
            return Err(value(
                "AdaptiveEmbedding",
                "tokens",
                "empty",
                "expected at least one",
            ));
        }
        let ids = host("AdaptiveEmbedding", &tokens, &self.clusters)?;
        let sorted = Sorted::new(&self.clusters, &ids);
        let (mut parts, mut unused) = (vec![], vec![]);
        for (i, ids) in sorted.ids.iter().enumerate() {
            if ids.is_empty() {
                unused.extend([&self.weights[i], &self.projections[i]]);
            } else {
                let vectors = self.weights[i].val().select(0, index(ids, &device));
                parts.push(vectors.matmul(self.projections[i].val().transpose()));
            }
        }
        let mut rows = Tensor::cat(parts, 0).select(0, index(&sorted.restore, &device));
        if let Some(zero) = idle(&unused) {
            rows = rows + zero.unsqueeze();
        }
        Ok(rows
            .mul_scalar((self.clusters.hidden as f64).sqrt())
            .reshape([batch, length, self.clusters.hidden]))
    }
}

/// Softmax by clusters: the shortlist and one logit per tail cluster in front, each tail's own softmax behind.
///
/// Tail cluster `i` (from 1) is chosen by the `i`-th column *from the end* of the front; published checkpoints rely on it.
#[derive(Module, Debug)]
pub struct AdaptiveSoftmax {
    /// Per cluster the vectors `[ids, width]`; empty when tied to the embedding's.
    pub weights: Vec<Param<Tensor<2>>>,
    /// Per cluster the projection `[hidden, width]`; empty when tied to the embedding's.
    pub projections: Vec<Param<Tensor<2>>>,
    /// Per cluster the bias `[ids]`.
    pub biases: Vec<Param<Tensor<1>>>,
    /// Logits of the tail clusters from the projected input: `[hidden, tails]`.
    pub cluster_weight: Param<Tensor<2>>,
    /// `[tails]`.
    pub cluster_bias: Param<Tensor<1>>,
    #[module(skip)]
    clusters: Clusters,
}

impl AdaptiveSoftmax {
    /// Own vectors and projections, or with `tied` those of the embedding, given at each call.
    pub fn new(clusters: &Clusters, tied: bool, key: Key, device: &Device) -> Self {
        let own = AdaptiveEmbedding::new(clusters, key, device);
        let (weights, projections) = if tied {
            (vec![], vec![])
        } else {
            (own.weights, own.projections)
        };
        let bound = (clusters.hidden as f64).powf(-0.5);
        let tails = clusters.len() - 1;
        Self {
            weights,
            projections,
            biases: (0..clusters.len())
                .map(|i| init::constant([clusters.range(i).len()], 0.0, device))
                .collect(),
            cluster_weight: init::uniform(
                [clusters.hidden, tails],
                bound,
                key.site("tails"),
                device,
            ),
            cluster_bias: init::uniform([tails], bound, key.site("tails").site("bias"), device),
            clusters: clusters.clone(),
        }
    }

    fn vectors<'a>(
        &'a self,
        cluster: usize,
        tied: Option<&'a AdaptiveEmbedding>,
    ) -> (&'a Param<Tensor<2>>, &'a Param<Tensor<2>>) {
        match tied {
            Some(e) => (&e.weights[cluster], &e.projections[cluster]),
            None => (&self.weights[cluster], &self.projections[cluster]),
        }
    }

    fn logits(&self, x: Tensor<2>, cluster: usize, tied: Option<&AdaptiveEmbedding>) -> Tensor<2> {
        let (weight, projection) = self.vectors(cluster, tied);
        let projected = x.matmul(projection.val());
        let logits = projected.clone().matmul(weight.val().transpose())
            + self.biases[cluster].val().unsqueeze();
        if cluster > 0 {
            return logits;
        }
        let tails =
            projected.matmul(self.cluster_weight.val()) + self.cluster_bias.val().unsqueeze();
        Tensor::cat(vec![logits, tails], 1)
    }

    /// Negative log-likelihood (nats) of each target: hidden states `[rows, hidden]` and ids `[rows]` to `[rows]`.
    ///
    /// # Errors
    /// No targets, or one outside the vocabulary.
    pub fn nll(
        &self,
        x: Tensor<2>,
        targets: Tensor<1, Int>,
        tied: Option<&AdaptiveEmbedding>,
    ) -> Result<Tensor<1>> {
        let device = x.device();
        let ids = host("AdaptiveSoftmax", &targets, &self.clusters)?;
        if ids.is_empty() {
            return Err(value(
                "AdaptiveSoftmax",
                "targets",
                "empty",
                "expected at least one",
            ));
        }
        let sorted = Sorted::new(&self.clusters, &ids);
        let front = log_softmax(self.logits(x.clone(), 0, tied), 1);
        let columns = front.dims()[1];
        let mut parts: Vec<Tensor<1>> = vec![];
        let mut zeros = vec![];
        for (i, places) in sorted.places.iter().enumerate() {
            if places.is_empty() {
                let (weight, projection) = self.vectors(i, tied);
                zeros.extend(idle(&[weight, projection]));
                zeros.extend(idle(&[&self.biases[i]]));
                continue;
            }
            let rows = index(places, &device);
            let ids = index(&sorted.ids[i], &device).unsqueeze_dim::<2>(1);
            let front = front.clone().select(0, rows.clone());
            let log_probability = if i == 0 {
                front.gather(1, ids)
            } else {
                let tail = log_softmax(self.logits(x.clone().select(0, rows), i, tied), 1);
                front.narrow(1, columns - i, 1) + tail.gather(1, ids)
            };
            parts.push(log_probability.squeeze_dim(1));
        }
        let mut nll = Tensor::cat(parts, 0)
            .select(0, index(&sorted.restore, &device))
            .neg();
        for zero in zeros {
            nll = nll + zero;
        }
        Ok(nll)
    }

    /// Log-probabilities of the whole vocabulary: `[rows, hidden]` to `[rows, vocab]`.
    pub fn log_probabilities(&self, x: Tensor<2>, tied: Option<&AdaptiveEmbedding>) -> Tensor<2> {
        let front = log_softmax(self.logits(x.clone(), 0, tied), 1);
        let columns = front.dims()[1];
        let shortlist = self.clusters.range(0).len();
        let mut parts = vec![front.clone().narrow(1, 0, shortlist)];
        for i in 1..self.clusters.len() {
            let tail = log_softmax(self.logits(x.clone(), i, tied), 1);
            parts.push(tail + front.clone().narrow(1, columns - i, 1));
        }
        Tensor::cat(parts, 1)
    }
}
