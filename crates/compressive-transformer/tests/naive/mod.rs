//! The `deepmind` profile once more, from the paper's formulas: loops over `f64`, one sequence at a time, nothing shared with the
//! crate but the names of the weights.

use compressive_transformer::{
    CompressionLoss, CompressiveTransformerConfig, CompressorKind, NormPlace, Pooling, Position,
    Usage,
};
use std::collections::BTreeMap;

pub type Rows = Vec<Vec<f64>>;

/// What a layer remembers of one sequence, oldest first.
#[derive(Clone)]
pub struct Memory {
    pub episodic: Rows,
    pub compressed: Rows,
    /// Attention received and steps lived, for each ordinary row.
    life: Vec<(f64, f64)>,
}

/// What a chunk gives.
pub struct Read {
    pub hidden: Rows,
    pub memories: Vec<Memory>,
    /// Compression loss of each layer.
    pub losses: Vec<f64>,
}

pub struct Twin<'a> {
    pub config: &'a CompressiveTransformerConfig,
    pub weights: BTreeMap<String, Vec<f64>>,
}

fn times(x: &Rows, weight: &[f64], out: usize) -> Rows {
    let row = |x: &Vec<f64>| {
        let cell = |o: usize| (0..x.len()).map(|i| x[i] * weight[i * out + o]).sum();
        (0..out).map(cell).collect()
    };
    x.iter().map(row).collect()
}

fn add(a: &Rows, b: &Rows) -> Rows {
    let rows = a.iter().zip(b);
    rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect())
        .collect()
}

fn relu(x: Rows) -> Rows {
    let rows = x.into_iter();
    rows.map(|row| row.into_iter().map(|x| x.max(0.0)).collect())
        .collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let all: Vec<f64> = logits.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = all.iter().sum();
    all.iter().map(|x| x / sum).collect()
}

/// Mean square of a difference.
fn distance(a: &Rows, b: &Rows) -> f64 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let squares: Vec<f64> = pairs.map(|(a, b)| (a - b) * (a - b)).collect();
    squares.iter().sum::<f64>() / squares.len() as f64
}

/// The last `n` rows.
fn newest<T: Clone>(rows: &[T], n: usize) -> Vec<T> {
    rows[rows.len() - n.min(rows.len())..].to_vec()
}

impl Twin<'_> {
    fn width(&self) -> usize {
        self.config.value_size * self.config.num_heads
    }

    fn weight(&self, name: &str) -> &[f64] {
        &self.weights[&format!("compressive_transformer/{name}")]
    }

    fn has(&self, name: &str) -> bool {
        let name = format!("compressive_transformer/{name}");
        self.weights.contains_key(&name)
    }

    /// Memories of zeros.
    pub fn blank(&self) -> Vec<Memory> {
        let c = self.config;
        let zeros = |n: usize| vec![vec![0.0; self.width()]; n];
        let layer = Memory {
            episodic: zeros(c.memory_size),
            compressed: zeros(c.compressed_memory_size),
            life: vec![(0.0, 0.0); c.memory_size],
        };
        vec![layer; c.num_layers]
    }

    /// Reads a chunk, the `index`-th since the memories were blank.
    pub fn read(&self, x: &Rows, memories: &[Memory], index: u64) -> Read {
        let mut hidden = x.clone();
        let (mut moved, mut losses) = (vec![], vec![]);
        for (i, memory) in memories.iter().enumerate() {
            let (out, memory, loss) = self.layer(i, &hidden, memory, index);
            hidden = out;
            moved.push(memory);
            losses.push(loss);
        }
        Read {
            hidden,
            memories: moved,
            losses,
        }
    }

    fn norm(&self, scope: &str, x: &Rows) -> Rows {
        let gain = self.weight(&format!("{scope}/gamma"));
        let shift = self.weight(&format!("{scope}/beta"));
        let row = |row: &Vec<f64>| {
            let n = row.len() as f64;
            let mean = row.iter().sum::<f64>() / n;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let cell =
                |(i, x): (usize, &f64)| (x - mean) / (variance + 1e-5).sqrt() * gain[i] + shift[i];
            row.iter().enumerate().map(cell).collect()
        };
        x.iter().map(row).collect()
    }

    /// Normalisation in front of and behind a sublayer, where there is one.
    fn norms(&self, wrapper: &str, x: &Rows, behind: bool) -> Rows {
        let suffix = match (self.config.layer_norm, behind) {
            (NormPlace::Input, false) | (NormPlace::Output, true) | (NormPlace::Both, false) => "",
            (NormPlace::Both, true) => "_1",
            _ => return x.clone(),
        };
        self.norm(&format!("{wrapper}/layer_norm{suffix}"), x)
    }

    /// `(q + bias)·r` for one head, a query and a relative distance.
    fn positional(
        &self,
        query: &[f64],
        distance: usize,
        head: usize,
        which: &[&str; 2],
        i: usize,
    ) -> f64 {
        let (d, size) = (self.width(), self.config.value_size);
        let clamp = self.config.clamp_time_range;
        let p = match clamp {
            0 => distance,
            _ => distance.min(clamp),
        } as f64;
        let frequency = |k: usize| 10000f64.powf(-2.0 * k as f64 / d as f64);
        let sinusoid = |j: usize| match j < d / 2 {
            true => (p * frequency(j)).sin(),
            false => (p * frequency(j - d / 2)).cos(),
        };
        let scope = format!("transformer_tower/layer_{i}/multihead_attention");
        let weight = self.weight(&format!("{scope}/{}/linear/w", which[0]));
        let bias = self.weight(&format!("{scope}/{}", which[1]));
        let cell = |j: usize| {
            let o = head * size + j;
            let key: f64 = (0..d).map(|row| sinusoid(row) * weight[row * d + o]).sum();
            (query[o] + bias[o]) * key
        };
        (0..size).map(cell).sum()
    }

    fn layer(&self, i: usize, x: &Rows, memory: &Memory, index: u64) -> (Rows, Memory, f64) {
        let c = self.config;
        let (d, size) = (self.width(), c.value_size);
        let scope = format!("transformer_tower/layer_{i}");
        let attention = format!("{scope}/multihead_attention");
        let linear = |name: &str, x: &Rows| {
            times(x, self.weight(&format!("{attention}/{name}/linear/w")), d)
        };
        let appended = self.norms(&format!("{scope}/residual_dropout_wrapper"), x, false);
        let mut query = linear("query", &appended);
        for q in query.iter_mut().flatten() {
            *q /= (size as f64).sqrt();
        }
        let [n, n_m, n_cm] = [x.len(), memory.episodic.len(), memory.compressed.len()];
        let seen = [&memory.compressed[..], &memory.episodic, &appended].concat();
        let (keys, values) = (linear("key", &seen), linear("value", &seen));
        let content = self.weight(&format!("{attention}/r_w_bias"));
        let separate = c.position == Position::Separate && c.compresses();
        let mut out = vec![vec![0.0; d]; n];
        let mut received = vec![0.0; seen.len()];
        for head in 0..c.num_heads {
            let at = |j: usize| head * size + j;
            for row in 0..n {
                let logit = |column: usize| {
                    // A column's distance to the query; compressed rows lie right before the chunk in a count of their own.
                    let (distance, which) = match (separate, column < n_cm) {
                        (true, true) => (n_cm + row - column, ["relative_keys_0", "r_r_bias_0"]),
                        _ => {
                            let distance = (n_cm + n_m + row).checked_sub(column);
                            (distance.unwrap_or(0), ["relative_keys", "r_r_bias"])
                        }
                    };
                    let hidden = column > n_cm + n_m + row
                        || (c.same_attention_length && column < n && column < row);
                    let cell =
                        |j: usize| (query[row][at(j)] + content[at(j)]) * keys[column][at(j)];
                    match hidden {
                        true => f64::NEG_INFINITY,
                        false => {
                            (0..size).map(cell).sum::<f64>()
                                + self.positional(&query[row], distance, head, &which, i)
                        }
                    }
                };
                let logits: Vec<f64> = (0..seen.len()).map(logit).collect();
                for (column, weight) in softmax(&logits).into_iter().enumerate() {
                    received[column] += weight / (c.num_heads * n) as f64;
                    for j in 0..size {
                        out[row][at(j)] += weight * values[column][at(j)];
                    }
                }
            }
        }
        let dense = |name: &str, x: &Rows, width: usize| {
            let bias = self.weight(&format!("{name}/b"));
            let rows = times(x, self.weight(&format!("{name}/w")), width);
            rows.into_iter()
                .map(|row| row.iter().zip(bias).map(|(x, b)| x + b).collect())
                .collect::<Rows>()
        };
        let out = dense(&format!("{attention}/linear"), &out, d);
        let wrapper = format!("{scope}/residual_dropout_wrapper");
        let x = self.norms(&wrapper, &add(x, &out), true);
        let wrapper = format!("{scope}/residual_dropout_wrapper_1");
        let mut inner = self.norms(&wrapper, &x, false);
        for (j, &width) in c.mlp_hidden_sizes.iter().chain([&d]).enumerate() {
            if j > 0 {
                inner = relu(inner);
            }
            inner = dense(&format!("{scope}/mlp/linear_{j}"), &inner, width);
        }
        let x = self.norms(&wrapper, &add(&x, &inner), true);
        let (memory, loss) = self.remember(i, memory, &appended, &query, &received[n_cm..], index);
        (x, memory, loss)
    }

    /// The memories behind a chunk, and the loss of what was compressed.
    fn remember(
        &self,
        i: usize,
        memory: &Memory,
        appended: &Rows,
        query: &Rows,
        received: &[f64],
        index: u64,
    ) -> (Memory, f64) {
        let c = self.config;
        let [n, n_m, n_cm] = [appended.len(), c.memory_size, c.compressed_memory_size];
        let all = [&memory.episodic[..], appended].concat();
        let mut life = memory.life.clone();
        life.extend(vec![(0.0, 0.0); n]);
        for ((sum, steps), received) in life.iter_mut().zip(received) {
            *sum += received;
            *steps += 1.0;
        }
        let (mut compressed, mut loss) = (memory.compressed.clone(), 0.0);
        let due = n > 1 || index % c.compression_rate as u64 == c.compression_rate as u64 - 1;
        if c.compresses() && due {
            let window = c.compression_rate + c.kernel_size;
            let count = window.max(n).min(n + n_m - 1);
            let old = all[..count].to_vec();
            let usage: Vec<f64> = match c.usage {
                Usage::Leaving => received[..count].to_vec(),
                Usage::Running => life[..count].iter().map(|(sum, n)| sum / n).collect(),
            };
            if let Some(new) = self.compress(i, &old, &usage) {
                loss = self.loss(i, &old, &new, &query[count.saturating_sub(n_m)..]);
                compressed = newest(&[compressed, new].concat(), n_cm);
            }
        }
        let memory = Memory {
            episodic: newest(&all, n_m),
            compressed,
            life: newest(&life, n_m),
        };
        (memory, loss)
    }

    fn scope(i: usize) -> String {
        match i {
            0 => "conv_compressor".to_owned(),
            _ => format!("conv_compressor_{i}"),
        }
    }

    fn compress(&self, i: usize, old: &Rows, usage: &[f64]) -> Option<Rows> {
        let c = self.config;
        let (d, rate) = (self.width(), c.compression_rate);
        if c.compressor == CompressorKind::MostUsed {
            let mut order: Vec<usize> = (0..old.len()).collect();
            order.sort_by(|&a, &b| usage[b].total_cmp(&usage[a]).then(a.cmp(&b)));
            order.truncate(old.len() / rate);
            order.sort_unstable();
            return (!order.is_empty())
                .then(|| order.iter().map(|&row| old[row].clone()).collect());
        }
        let mut rows = old.clone();
        for dilation in c.dilation_rates.iter().flatten() {
            let weight = self.weight(&format!("{}/conv_rate_{dilation}/w", Self::scope(i)));
            let [early, late] = [&weight[..d * d], &weight[d * d..]];
            let left = rows.len().checked_sub(*dilation)?;
            let [a, b] = [rows[..left].to_vec(), rows[*dilation..].to_vec()];
            rows = relu(add(&times(&a, early, d), &times(&b, late, d)));
        }
        let window = rate + c.kernel_size;
        let mut new = vec![];
        for start in (0..)
            .map(|t| t * rate)
            .take_while(|s| s + window <= rows.len())
        {
            let part = &rows[start..start + window];
            let cell = |o: usize| -> f64 {
                let column = part.iter().map(|row| row[o]);
                match (c.compressor, c.pooling) {
                    (CompressorKind::Pool, Pooling::Avg) => column.sum::<f64>() / window as f64,
                    (CompressorKind::Pool, Pooling::Max) => {
                        column.fold(f64::NEG_INFINITY, f64::max)
                    }
                    _ => {
                        let weight = self.weight(&format!("{}/conv_1d/w", Self::scope(i)));
                        let cells =
                            (0..window * d).map(|at| part[at / d][at % d] * weight[at * d + o]);
                        cells.sum()
                    }
                }
            };
            new.push((0..d).map(cell).collect());
        }
        (!new.is_empty()).then_some(new)
    }

    fn loss(&self, i: usize, old: &Rows, new: &Rows, query: &[Vec<f64>]) -> f64 {
        let c = self.config;
        let d = self.width();
        if !c.has_compression_loss() {
            return 0.0;
        }
        if c.compression_loss == CompressionLoss::Ae {
            let weight = self.weight(&format!("{}/conv_1d_transpose/w", Self::scope(i)));
            let rate = c.compression_rate;
            let cell = |row: usize, o: usize| -> f64 {
                let (z, tap) = (&new[row / rate], row % rate);
                (0..d).map(|j| z[j] * weight[(tap * d + o) * d + j]).sum()
            };
            let rows = new.len() * rate;
            let restored: Rows = (0..rows)
                .map(|row| (0..d).map(|o| cell(row, o)).collect())
                .collect();
            return distance(&restored, &old[..rows].to_vec());
        }
        assert!(self.has(&format!("{}/conv_1d/w", Self::scope(i))));
        let scope = format!("transformer_tower/layer_{i}/multihead_attention");
        let read = |rows: &Rows| -> Rows {
            let keys = times(rows, self.weight(&format!("{scope}/key/linear/w")), d);
            let values = times(rows, self.weight(&format!("{scope}/value/linear/w")), d);
            let one = |query: &Vec<f64>| {
                let mut out = vec![0.0; d];
                for head in 0..c.num_heads {
                    let part = head * c.value_size..(head + 1) * c.value_size;
                    let logit =
                        |key: &Vec<f64>| part.clone().map(|j| query[j] * key[j]).sum::<f64>();
                    let logits: Vec<f64> = keys.iter().map(logit).collect();
                    for (weight, value) in softmax(&logits).iter().zip(&values) {
                        for j in part.clone() {
                            out[j] += weight * value[j];
                        }
                    }
                }
                out
            };
            query.iter().map(one).collect()
        };
        distance(&read(old), &read(new))
    }
}
