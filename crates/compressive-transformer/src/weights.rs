//! Upstream's tensor names and model folders.

use crate::error::{Result, config as wrong, input};
use crate::head::{OutputLayer, TokenEmbedding};
use crate::lucidrains::{GruGate, LucidrainsTransformer};
use crate::memory_model::MemoryModel;
use crate::model::{CompressiveTransformer, Norms};
use crate::profile::{ModelConfig, profile, to_json};
use burn::nn::LayerNorm;
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::{Binder, LoadOptions, NamedTensors, Weights};
use std::path::Path;

/// The file that holds the weights in a model folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The file that holds the configuration in a model folder.
pub const CONFIG_FILE: &str = "config.json";

fn norm<B: Binder>(b: &mut B, name: &str, [gain, shift]: [&str; 2], norm: &mut LayerNorm) {
    b.param(&format!("{name}{gain}"), &mut norm.gamma);
    if let Some(beta) = &mut norm.beta {
        b.param(&format!("{name}{shift}"), beta);
    }
}

/// Within a wrapper the normalisations are numbered in the order in which they run.
fn norms<B: Binder>(b: &mut B, wrapper: &str, norms: &mut Norms) {
    let all = [&mut norms.input, &mut norms.output];
    for (i, layer) in all.into_iter().flatten().enumerate() {
        let suffix = if i == 0 { "" } else { "_1" };
        let name = format!("{wrapper}/layer_norm{suffix}");
        norm(b, &name, ["/gamma", "/beta"], layer);
    }
}

impl Weights for CompressiveTransformer {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        let tied = self.config().adapt_io_tied;
        let name = |rest: &str| format!("compressive_transformer/{rest}");
        if let Some(dense) = &mut self.input {
            b.param(&name("mlp/linear_0/w"), &mut dense.weight);
            b.param(&name("mlp/linear_0/b"), &mut dense.bias);
        }
        if let Some(head) = &mut self.head {
            // Upstream has no language model: these names are ours.
            match &mut head.embedding {
                TokenEmbedding::Plain(weight) => b.param(&name("embed/embeddings"), weight),
                TokenEmbedding::Adaptive(embedding) => {
                    for (i, weight) in embedding.weights.iter_mut().enumerate() {
                        b.param(&name(&format!("embed/cluster_{i}/embeddings")), weight);
                    }
                    for (i, projection) in embedding.projections.iter_mut().enumerate() {
                        b.param(&name(&format!("embed/cluster_{i}/projection")), projection);
                    }
                }
            }
            match &mut head.output {
                OutputLayer::Plain(dense) => {
                    b.param(&name("output/linear/w"), &mut dense.weight);
                    b.param(&name("output/linear/b"), &mut dense.bias);
                }
                OutputLayer::Adaptive(softmax) => {
                    b.param(&name("output/tails/w"), &mut softmax.cluster_weight);
                    b.param(&name("output/tails/b"), &mut softmax.cluster_bias);
                    for (i, bias) in softmax.biases.iter_mut().enumerate() {
                        b.param(&name(&format!("output/cluster_{i}/b")), bias);
                        if !tied {
                            let cluster = name(&format!("output/cluster_{i}"));
                            b.param(&format!("{cluster}/embeddings"), &mut softmax.weights[i]);
                            b.param(
                                &format!("{cluster}/projection"),
                                &mut softmax.projections[i],
                            );
                        }
                    }
                }
            }
        }
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let name = |rest: &str| name(&format!("transformer_tower/layer_{i}/{rest}"));
            norms(
                b,
                &name("residual_dropout_wrapper"),
                &mut layer.attention_norms,
            );
            norms(b, &name("residual_dropout_wrapper_1"), &mut layer.mlp_norms);
            let attention = &mut layer.attention;
            let heads = |rest: &str| name(&format!("multihead_attention/{rest}"));
            b.param(&heads("query/linear/w"), &mut attention.query);
            b.param(&heads("key/linear/w"), &mut attention.key);
            b.param(&heads("value/linear/w"), &mut attention.value);
            b.param(
                &heads("relative_keys/linear/w"),
                &mut attention.relative_keys,
            );
            if let Some(weight) = &mut attention.relative_keys_0 {
                b.param(&heads("relative_keys_0/linear/w"), weight);
            }
            b.param(&heads("r_w_bias"), &mut attention.r_w_bias);
            b.param(&heads("r_r_bias"), &mut attention.r_r_bias);
            if let Some(bias) = &mut attention.r_r_bias_0 {
                b.param(&heads("r_r_bias_0"), bias);
            }
            b.param(&heads("linear/w"), &mut attention.out_weight);
            b.param(&heads("linear/b"), &mut attention.out_bias);
            for (j, dense) in layer.mlp.iter_mut().enumerate() {
                b.param(&name(&format!("mlp/linear_{j}/w")), &mut dense.weight);
                b.param(&name(&format!("mlp/linear_{j}/b")), &mut dense.bias);
            }
        }
        for (i, compressor) in self.compressors.iter_mut().enumerate() {
            let scope = match i {
                0 => name("conv_compressor"),
                _ => name(&format!("conv_compressor_{i}")),
            };
            let rates = compressor.compression().dilations.clone();
            for (weight, rate) in compressor.dilated.iter_mut().zip(rates) {
                b.param(&format!("{scope}/conv_rate_{rate}/w"), weight);
            }
            if let Some(weight) = &mut compressor.conv {
                b.param(&format!("{scope}/conv_1d/w"), weight);
            }
            if let Some(weight) = &mut compressor.decoder {
                b.param(&format!("{scope}/conv_1d_transpose/w"), weight);
            }
        }
    }
}

fn gate<B: Binder>(b: &mut B, name: &str, gate: &mut Option<GruGate>) {
    if let Some(gate) = gate {
        b.linear(&format!("{name}.gru.weight_ih"), &mut gate.weight_ih);
        b.linear(&format!("{name}.gru.weight_hh"), &mut gate.weight_hh);
        b.param(&format!("{name}.gru.bias_ih"), &mut gate.bias_ih);
        b.param(&format!("{name}.gru.bias_hh"), &mut gate.bias_hh);
    }
}

impl Weights for LucidrainsTransformer {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        b.param("token_emb.weight", &mut self.token_emb);
        if let Some(dense) = &mut self.to_model_dim {
            b.linear("to_model_dim.weight", &mut dense.weight);
            b.param("to_model_dim.bias", &mut dense.bias);
        }
        b.param("pos_emb", &mut self.pos_emb);
        for (i, layer) in self.attn_layers.iter_mut().enumerate() {
            let outer = format!("attn_layers.{i}");
            gate(b, &outer, &mut layer.gru);
            norm(
                b,
                &format!("{outer}.fn.norm"),
                [".weight", ".bias"],
                &mut layer.norm,
            );
            let inner = |rest: &str| format!("{outer}.fn.fn.{rest}");
            b.linear(&inner("to_q.weight"), &mut layer.to_q);
            b.linear(&inner("to_kv.weight"), &mut layer.to_kv);
            b.linear(&inner("to_out.weight"), &mut layer.to_out.weight);
            b.param(&inner("to_out.bias"), &mut layer.to_out.bias);
            let compressor = &mut self.compressors[i];
            if let Some(weight) = &mut compressor.conv {
                b.param(&inner("compress_mem_fn.conv.weight"), weight);
            }
            if let Some(bias) = &mut compressor.bias {
                b.param(&inner("compress_mem_fn.conv.bias"), bias);
            }
        }
        for (i, layer) in self.ff_layers.iter_mut().enumerate() {
            let outer = format!("ff_layers.{i}");
            gate(b, &outer, &mut layer.gru);
            norm(
                b,
                &format!("{outer}.fn.norm"),
                [".weight", ".bias"],
                &mut layer.norm,
            );
            for (name, dense) in [("w1", &mut layer.w1), ("w2", &mut layer.w2)] {
                b.linear(&format!("{outer}.fn.fn.{name}.weight"), &mut dense.weight);
                b.param(&format!("{outer}.fn.fn.{name}.bias"), &mut dense.bias);
            }
        }
        if let Some(dense) = &mut self.to_emb_dim {
            b.linear("to_logits.0.weight", &mut dense.weight);
            b.param("to_logits.0.bias", &mut dense.bias);
        }
        b.linear("to_logits.1.weight", &mut self.to_logits.weight);
        b.param("to_logits.1.bias", &mut self.to_logits.bias);
    }
}

/// A model with these weights, by upstream names.
///
/// # Errors
/// Every tensor that is missing, unused or misshapen; `file` is named in the message.
pub fn from_tensors<M: MemoryModel>(
    config: &M::Config,
    tensors: NamedTensors,
    file: &Path,
    device: &Device,
) -> Result<M> {
    let model = M::build(config, Key::new(0), device)?;
    let (model, _) = pretrained::load_weights(model, tensors, file, &LoadOptions::default())?;
    Ok(model)
}

/// Loads a folder with `config.json` and `model.safetensors`, strictly.
///
/// # Errors
/// A missing or damaged file, a configuration of the other profile or a wrong one, and every tensor that is missing, unused or
/// misshapen, by name.
pub fn from_pretrained<M: MemoryModel>(dir: impl AsRef<Path>, device: &Device) -> Result<M> {
    let file = dir.as_ref().join(CONFIG_FILE);
    let (found, keys) = profile(pretrained::read_json(&file)?, "")?;
    if found != M::PROFILE {
        let expected = format!("expected {:?}, the profile that is asked for", M::PROFILE);
        return Err(wrong("profile", format!("{found:?}"), expected));
    }
    let config = M::parse(keys, &file, "")?;
    let weights = weights_file(dir.as_ref());
    from_tensors(
        &config,
        pretrained::read_tensors(&weights)?,
        &weights,
        device,
    )
}

/// The weights of a folder, in whichever format they are.
fn weights_file(dir: &Path) -> std::path::PathBuf {
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "model.pt",
    ]
    .map(|name| dir.join(name))
    .into_iter()
    .find(|file| file.exists())
    .unwrap_or_else(|| dir.join(WEIGHTS_FILE))
}

/// Writes `config.json` and `model.safetensors`, under upstream's names and in its layout.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn save_pretrained<M: MemoryModel>(model: &M, dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    std::fs::create_dir_all(dir).map_err(|source| pretrained::Error::Io {
        path: dir.into(),
        action: "create",
        source,
    })?;
    let json = serde_json::to_string_pretty(&to_json::<M>(model.settings())?)
        .map_err(|e| wrong("model_type", e, "cannot be written as JSON"))?;
    pretrained::write_safetensors(&dir.join(WEIGHTS_FILE), &pretrained::collect_weights(model))?;
    pretrained::write_atomic(&dir.join(CONFIG_FILE), (json + "\n").as_bytes())?;
    Ok(())
}

impl CompressiveTransformer {
    /// Loads a folder with `config.json` and `model.safetensors`, strictly.
    ///
    /// # Errors
    /// As [`from_pretrained`].
    pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        from_pretrained(dir, device)
    }

    /// Writes a folder that [`CompressiveTransformer::from_pretrained`] and Python's safetensors read.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        save_pretrained(self, dir)
    }
}

impl LucidrainsTransformer {
    /// Loads a folder with `config.json` and `model.safetensors`, strictly.
    ///
    /// # Errors
    /// As [`from_pretrained`].
    pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        from_pretrained(dir, device)
    }

    /// Writes a folder that [`LucidrainsTransformer::from_pretrained`] and Python's safetensors read.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        save_pretrained(self, dir)
    }
}

/// The vocabulary's size follows from the tensors where the configuration does not say it.
pub(crate) fn with_vocabulary(config: ModelConfig, tensors: &NamedTensors) -> Result<ModelConfig> {
    let rows = |name: &str| {
        tensors
            .get(name)
            .and_then(|data| data.shape().first().copied())
    };
    Ok(match config {
        ModelConfig::Deepmind(mut config) => {
            let absent = config.vocab_size.is_none() && config.input_dim.is_none();
            if absent && !config.adapt_io {
                config.vocab_size = rows("compressive_transformer/embed/embeddings");
            }
            if absent && config.vocab_size.is_none() {
                return Err(input(
                    "the vocabulary's size",
                    "absent",
                    "give it as `vocab_size` in the configuration",
                ));
            }
            ModelConfig::Deepmind(config)
        }
        ModelConfig::Lucidrains(mut config) => {
            config.num_tokens = config.num_tokens.or_else(|| rows("token_emb.weight"));
            ModelConfig::Lucidrains(config)
        }
    })
}
