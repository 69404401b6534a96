//! The authors' model once more: plain loops over plain numbers in f64, one text after another, every membership chosen by
//! sorting. Written from the description and sharing nothing with the crate but the names of the weights.

use pretrained::NamedTensors;
use routing_transformer::paper::PaperConfig;
use std::collections::BTreeMap;

/// Weights by their names behind `sparse_transformer/body/`.
pub type Numbers = BTreeMap<String, Vec<f64>>;

const PREFIXES: [&str; 2] = ["sparse_transformer/body/", "sparse_imagetransformer/body/"];

/// Weights of a model as numbers.
pub fn numbers(weights: NamedTensors) -> Numbers {
    let plain = |(name, data): (String, burn::tensor::TensorData)| {
        let short = PREFIXES.iter().find_map(|p| name.strip_prefix(p));
        let short = short.unwrap_or(&name).to_owned();
        (short, data.iter::<f64>().collect())
    };
    weights.into_iter().map(plain).collect()
}

/// What a gradient does not flow through: the vectors that were clustered and where they went, side after side.
#[derive(Default, Clone)]
pub struct Stopped {
    sides: Vec<Side>,
}

#[derive(Clone)]
struct Side {
    layer: usize,
    head: usize,
    x: Vec<Vec<f64>>,
    nearest: Vec<usize>,
    own: Vec<Vec<f64>>,
}

pub struct Run {
    /// `[batch][length][vocab]`.
    pub logits: Vec<Vec<Vec<f64>>>,
    pub cross_entropy: f64,
    pub clustering: f64,
    pub stopped: Stopped,
}

impl Run {
    pub fn loss(&self) -> f64 {
        self.cross_entropy + self.clustering
    }
}

pub struct Twin<'a> {
    pub config: &'a PaperConfig,
    pub weights: &'a Numbers,
    pub strict: bool,
    /// Of the unchanged weights, where gradients are taken by differences.
    pub stopped: Option<&'a Stopped>,
}

type Rows = Vec<Vec<f64>>;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &Rows, b: &Rows) -> Rows {
    let row = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
    a.iter().zip(b).map(row).collect()
}

fn sphere(row: &[f64]) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let scale = (variance + 1e-6).sqrt();
    row.iter().map(|x| (x - mean) / scale).collect()
}

/// Shares of the visible scores.
fn softmax(scores: &[f64]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// The `count` largest of `scores` among `0..=last`, ties to the lowest, ascending.
fn best(scores: &[f64], last: usize, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..=last).collect();
    all.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    all.truncate(count);
    all.sort_unstable();
    all
}

impl Twin<'_> {
    fn get(&self, name: &str) -> &[f64] {
        let found = self.weights.get(name);
        found.unwrap_or_else(|| panic!("no weight {name}"))
    }

    /// `x·W`, with a bias where there is one of that name.
    fn map(&self, x: &Rows, name: &str) -> Rows {
        let weight = self.get(&format!("{name}/kernel"));
        let bias = self.weights.get(&format!("{name}/bias"));
        let width = weight.len() / x[0].len();
        x.iter()
            .map(|row| {
                let at = |j: usize| {
                    let column = row.iter().enumerate();
                    let sum: f64 = column.map(|(i, x)| x * weight[i * width + j]).sum();
                    sum + bias.map_or(0.0, |b| b[j])
                };
                (0..width).map(at).collect()
            })
            .collect()
    }

    fn norm(&self, x: &Rows, name: &str) -> Rows {
        let scale = self.get(&format!("{name}/layer_norm/layer_norm_scale"));
        let bias = self.get(&format!("{name}/layer_norm/layer_norm_bias"));
        x.iter()
            .map(|row| {
                let n = row.len() as f64;
                let mean = row.iter().sum::<f64>() / n;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                let root = (variance + self.config.norm_epsilon).sqrt();
                let all = row.iter().zip(scale).zip(bias);
                all.map(|((x, s), b)| (x - mean) / root * s + b).collect()
            })
            .collect()
    }

    /// Row `offset` of a relative table.
    fn relative(&self, place: &str, kind: &str, offset: i64, width: usize) -> Vec<f64> {
        let reach = self.config.max_relative_position.unwrap_or(0) as i64;
        match self
            .weights
            .get(&format!("{place}/relative_positions_{kind}/embeddings"))
        {
            Some(table) => {
                let row = (offset.clamp(-reach, reach) + reach) as usize;
                table[row * width..(row + 1) * width].to_vec()
            }
            None => vec![0.0; width],
        }
    }

    /// One query among keys; `rank` is its own among theirs.
    fn attend(
        &self,
        q: &[f64],
        keys: &[(i64, &[f64], &[f64])],
        rank: i64,
        place: &str,
    ) -> Vec<f64> {
        let width = q.len();
        let scores: Vec<f64> = keys
            .iter()
            .map(|(at, k, _)| {
                let relative = self.relative(place, "keys", at - rank, width);
                dot(q, k) + dot(q, &relative)
            })
            .collect();
        let mut out = vec![0.0; width];
        for (share, (at, _, v)) in softmax(&scores).iter().zip(keys) {
            let relative = self.relative(place, "values", at - rank, width);
            for (o, (v, r)) in out.iter_mut().zip(v.iter().zip(&relative)) {
                *o += share * (v + r);
            }
        }
        out
    }

    fn routed_head(&self, q: &Rows, k: &Rows, v: &Rows, means: &[Vec<f64>], place: &str) -> Rows {
        let (n, width) = (q.len(), q[0].len());
        let c = self.config;
        let w = c.sparsity_cluster_attention_window;
        let mut sums = vec![vec![0.0; width]; n];
        let mut counts = vec![0.0; n];
        let mut give = |t: usize, out: Vec<f64>| {
            counts[t] += 1.0;
            sums[t].iter_mut().zip(out).for_each(|(s, o)| *s += o);
        };
        for mean in means {
            let like = |x: &Rows| -> Vec<f64> { x.iter().map(|x| dot(x, mean)).collect() };
            let (of_queries, of_keys) = (like(q), like(k));
            let list = |members: &[usize], upto: usize| -> Vec<(i64, usize)> {
                let ranked = members.iter().enumerate().filter(|(_, t)| **t <= upto);
                ranked.map(|(rank, t)| (rank as i64, *t)).collect()
            };
            let mut meet = |t: usize, rank: i64, keys: Vec<(i64, usize)>| {
                let keys: Vec<_> = keys
                    .iter()
                    .map(|(r, j)| (*r, &k[*j][..], &v[*j][..]))
                    .collect();
                give(t, self.attend(&q[t], &keys, rank, place));
            };
            if self.strict {
                for t in 0..n {
                    let members = best(&of_queries, t, w);
                    if members.last() == Some(&t) {
                        meet(t, members.len() as i64 - 1, list(&members, t));
                    }
                }
                continue;
            }
            let queries = best(&of_queries, n - 1, w);
            let keys = best(&of_keys, n - 1, w);
            for (rank, t) in queries.iter().enumerate() {
                let upto = if c.causal { *t } else { n };
                meet(*t, rank as i64, list(&keys, upto));
            }
        }
        let divided =
            |(sum, count): (&Vec<f64>, &f64)| sum.iter().map(|s| s / (count + 0.01)).collect();
        sums.iter().zip(&counts).map(divided).collect()
    }

    fn local_head(&self, q: &Rows, k: &Rows, v: &Rows, place: &str) -> Rows {
        let c = self.config;
        let (n, block, m) = (q.len() as i64, c.block() as i64, c.blocks_back() as i64);
        let out = |t: i64| {
            let own = t / block;
            let ahead = if c.causal { 0 } else { m };
            let last = ((own + 1 + ahead) * block - 1).min(if c.causal { t } else { n - 1 });
            let first = ((own - m) * block).max(0);
            let keys: Vec<_> = (first..=last)
                .map(|p| (p, &k[p as usize][..], &v[p as usize][..]))
                .collect();
            self.attend(&q[t as usize], &keys, t, place)
        };
        (0..n).map(out).collect()
    }

    fn attention(&self, x: &Rows, layer: usize, run: &mut Clustering<'_>) -> Rows {
        let c = self.config;
        let name = format!("decoder_layer_{layer}/self_attention/self_attention");
        let (d, routing) = (c.head_dim(), c.routing_heads(layer));
        let head = |x: &Rows, h: usize| -> Rows {
            x.iter()
                .map(|row| row[h * d..(h + 1) * d].to_vec())
                .collect()
        };
        let mut q = self.map(x, &format!("{name}/q"));
        q.iter_mut().flatten().for_each(|q| *q /= (d as f64).sqrt());
        let k = self.map(x, &format!("{name}/k"));
        let v = self.map(x, &format!("{name}/v"));
        let mut merged = vec![vec![]; x.len()];
        for h in 0..c.heads() {
            let (q, k, v) = (head(&q, h), head(&k, h), head(&v, h));
            let out = if h < routing {
                let place = format!("{name}/attention_nd/cluster_attention/cluster_attention");
                let q: Rows = q.iter().map(|q| sphere(q)).collect();
                let k: Rows = match c.share_qk {
                    true => q.clone(),
                    false => k.iter().map(|k| sphere(k)).collect(),
                };
                let clusters = c.sparsity_cluster_size;
                let means: Vec<Vec<f64>> = self.get(&format!("{place}/means"))
                    [h * clusters * d..(h + 1) * clusters * d]
                    .chunks_exact(d)
                    .map(<[f64]>::to_vec)
                    .collect();
                let sides: &[&Rows] = if c.share_qk { &[&q, &q] } else { &[&q, &k] };
                for side in sides {
                    run.side(side, &means, layer, h);
                }
                self.routed_head(&q, &k, &v, &means, &place)
            } else {
                self.local_head(&q, &k, &v, &format!("{name}/attention_nd/local_nd"))
            };
            let out = self.map(&out, &format!("{name}/attention_nd/dense"));
            merged
                .iter_mut()
                .zip(out)
                .for_each(|(all, o): (&mut Vec<f64>, _)| all.extend(o));
        }
        self.map(&merged, &format!("{name}/output_transform"))
    }

    fn feed_forward(&self, x: &Rows, layer: usize) -> Rows {
        let name = format!("decoder_layer_{layer}/self_attention/ffn");
        if self.config.ffn_layer == "geglu" {
            let gate = self.map(x, &format!("{name}/weight1"));
            let up = self.map(x, &format!("{name}/weight2"));
            let gelu = |x: f64| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            };
            let row = |(g, u): (&Vec<f64>, &Vec<f64>)| {
                g.iter().zip(u).map(|(g, u)| gelu(*g) * u).collect()
            };
            let inner: Rows = gate.iter().zip(&up).map(row).collect();
            return self.map(&inner, &format!("{name}/weight3"));
        }
        let mut inner = self.map(x, &format!("{name}/conv1"));
        inner.iter_mut().flatten().for_each(|x| *x = x.max(0.0));
        self.map(&inner, &format!("{name}/conv2"))
    }

    /// Byte `t` of a picture: the row of its value and channel, and the rows of its place, all times the root of the width.
    fn embedded_picture(&self, ids: &[i64]) -> Rows {
        let c = self.config;
        let (d, width) = (c.hidden_size, c.frame_width.unwrap());
        let channels = c.num_channels.unwrap_or(3);
        let embed = |(t, id): (usize, &i64)| {
            let (pixel, channel) = (t / channels, t % channels);
            let value = *id as usize + 256 * channel;
            let places = [pixel / width, pixel % width, channel];
            let table = |name: &str, row: usize| self.get(name)[row * d..(row + 1) * d].to_vec();
            let mut row = table("rgb_target_emb_channel", value);
            for (axis, place) in places.into_iter().enumerate() {
                if c.add_positional_emb != Some(false) {
                    let more = table(&format!("pos_emb_{axis}"), place);
                    row.iter_mut().zip(more).for_each(|(r, m)| *r += m);
                }
            }
            row.iter_mut().for_each(|x| *x *= (d as f64).sqrt());
            row
        };
        ids.iter().enumerate().map(embed).collect()
    }

    fn embedded(&self, ids: &[i64]) -> Rows {
        let c = self.config;
        if c.frame_width.is_some() {
            return self.embedded_picture(ids);
        }
        let table = self.get("embeddings/embedding");
        let e = c.embedding();
        let rows = ids.iter().map(|id| *id as usize);
        let rows: Rows = rows
            .map(|id| table[id * e..(id + 1) * e].to_vec())
            .collect();
        let mut x = self.map(&rows, "emb_dense");
        if c.add_timing_signal {
            let half = c.hidden_size / 2;
            for (t, row) in x.iter_mut().enumerate() {
                for i in 0..half {
                    let angle = t as f64 / 10_000f64.powf(i as f64 / (half as f64 - 1.0));
                    row[i] += angle.sin();
                    row[half + i] += angle.cos();
                }
            }
        }
        x
    }

    /// Texts of equal length, as the model is given them, and what it is asked; 0 is not scored.
    pub fn run(&self, inputs: &[Vec<i64>], targets: &[Vec<i64>]) -> Run {
        let c = self.config;
        let pre = c.pre_norm();
        let mut clustering = Clustering {
            twin: self,
            batch: inputs.len(),
            loss: 0.0,
            stopped: Stopped::default(),
        };
        let (mut nats, mut scored, mut logits) = (0.0, 0.0, vec![]);
        for (ids, asked) in inputs.iter().zip(targets) {
            let mut x = self.embedded(ids);
            for layer in 0..c.num_decoder_layers {
                let name = format!("decoder_layer_{layer}/self_attention");
                let norms = match pre {
                    true => ["layer_prepostprocess", "layer_prepostprocess_1"],
                    false => ["layer_postprocess", "layer_postprocess_1"],
                };
                for (i, norm) in norms.into_iter().enumerate() {
                    let norm = format!("{name}/{norm}");
                    let inner = if pre { self.norm(&x, &norm) } else { x.clone() };
                    let out = match i {
                        0 => self.attention(&inner, layer, &mut clustering),
                        _ => self.feed_forward(&inner, layer),
                    };
                    x = add(&x, &out);
                    if !pre {
                        x = self.norm(&x, &norm);
                    }
                }
            }
            if pre {
                x = self.norm(&x, "layer_prepostprocess");
            }
            if self.weights.contains_key("final_dense_1/kernel") {
                x = self.map(&x, "final_dense_1");
            }
            let pictures = c.frame_width.is_some();
            let last = if pictures {
                "final_dense"
            } else {
                "final_dense_2"
            };
            let scores = self.map(&x, last);
            // A byte of 0 is a value like any other; token 0 is padding.
            let counts = |id: i64| pictures || id != 0;
            for (row, id) in scores.iter().zip(asked).filter(|(_, id)| counts(**id)) {
                nats -= softmax(row)[*id as usize].ln();
                scored += 1.0;
            }
            logits.push(scores);
        }
        Run {
            logits,
            cross_entropy: nats / scored,
            clustering: clustering.loss,
            stopped: clustering.stopped,
        }
    }
}

/// The clustering loss on its way through the layers.
struct Clustering<'a> {
    twin: &'a Twin<'a>,
    batch: usize,
    loss: f64,
    stopped: Stopped,
}

impl Clustering<'_> {
    fn side(&mut self, x: &Rows, means: &[Vec<f64>], layer: usize, head: usize) {
        let nearest: Vec<usize> = x
            .iter()
            .map(|x| {
                let like: Vec<f64> = means.iter().map(|m| dot(x, m)).collect();
                let best = (0..means.len()).reduce(|a, b| if like[b] > like[a] { b } else { a });
                best.unwrap()
            })
            .collect();
        let own: Rows = nearest.iter().map(|z| means[*z].clone()).collect();
        let live = Side {
            layer,
            head,
            x: x.clone(),
            nearest,
            own,
        };
        // What is behind a stopped gradient stays what it was with the unchanged weights.
        let still = match self.twin.stopped {
            Some(before) => before.sides[self.stopped.sides.len()].clone(),
            None => live.clone(),
        };
        let c = self.twin.config;
        let share = (self.batch * x.len() * x[0].len() * c.routing_heads(layer)) as f64;
        let square = |a: &Rows, b: &Rows| -> f64 {
            let rows = a.iter().flatten().zip(b.iter().flatten());
            rows.map(|(a, b)| (a - b).powi(2)).sum::<f64>() / share
        };
        self.loss += c.beta * square(x, &still.own);
        if !c.ema {
            let own: Rows = still.nearest.iter().map(|z| means[*z].clone()).collect();
            self.loss += square(&still.x, &own);
        }
        self.stopped.sides.push(live);
    }
}

impl Stopped {
    /// Number and sum of the vectors of every cluster of a head of a layer; `side` 0 queries, 1 keys.
    pub fn sums(
        &self,
        layer: usize,
        head: usize,
        side: usize,
        clusters: usize,
    ) -> (Vec<f64>, Rows) {
        let of_head = self
            .sides
            .iter()
            .filter(|s| s.layer == layer && s.head == head);
        let width = self.sides[0].x[0].len();
        let (mut count, mut sum) = (vec![0.0; clusters], vec![vec![0.0; width]; clusters]);
        // Queries and keys take turns, text after text.
        for s in of_head.skip(side).step_by(2) {
            for (x, z) in s.x.iter().zip(&s.nearest) {
                count[*z] += 1.0;
                sum[*z].iter_mut().zip(x).for_each(|(s, x)| *s += x);
            }
        }
        (count, sum)
    }
}
