//! Upstream's tensor names and model folders.

use crate::config::AdaptiveSpanConfig;
use crate::error::{Result, config as wrong};
use crate::model::{InputEmbedding, OutputLayer, TransformerSeq};
use burn::prelude::*;
use core_attn::random::Key;
use pretrained::{Binder, LoadOptions, NamedTensors, Weights};
use std::path::Path;

impl Weights for TransformerSeq {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        let config = self.config().clone();
        let span = config.attn_span;
        b.param("key_pe", &mut self.key_pe);
        match &mut self.in_emb {
            InputEmbedding::Plain(weight) => b.param("in_emb.weight", weight),
            InputEmbedding::Adaptive(embedding) => {
                for (i, weight) in embedding.weights.iter_mut().enumerate() {
                    b.param(&format!("in_emb.emb_layers.{i}.weight"), weight);
                }
                for (i, projection) in embedding.projections.iter_mut().enumerate() {
                    b.param(&format!("in_emb.emb_projs.{i}"), projection);
                }
            }
        }
        match &mut self.out_emb {
            OutputLayer::Plain(out) => {
                b.linear("out_emb.weight", &mut out.weight);
                b.param("out_emb.bias", &mut out.bias);
            }
            OutputLayer::Adaptive(softmax) => {
                b.linear("out_emb.cluster_proj.weight", &mut softmax.cluster_weight);
                b.param("out_emb.cluster_proj.bias", &mut softmax.cluster_bias);
                for (i, bias) in softmax.biases.iter_mut().enumerate() {
                    b.param(&format!("out_emb.out_layers.{i}.bias"), bias);
                    let weight = format!("out_emb.out_layers.{i}.weight");
                    let projection = format!("out_emb.out_projs.{i}");
                    if config.adapt_io_tied {
                        b.alias(&weight, &format!("in_emb.emb_layers.{i}.weight"));
                        b.alias(&projection, &format!("in_emb.emb_projs.{i}"));
                    } else {
                        b.param(&weight, &mut softmax.weights[i]);
                        b.param(&projection, &mut softmax.projections[i]);
                    }
                }
            }
        }
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let name = |rest: &str| format!("layers.{i}.{rest}");
            b.linear(&name("attn.proj_query.weight"), &mut layer.attn.proj_query);
            b.linear(&name("attn.proj_key.weight"), &mut layer.attn.proj_key);
            b.linear(&name("attn.proj_val.weight"), &mut layer.attn.proj_val);
            b.linear(&name("attn.proj_out.weight"), &mut layer.attn.proj_out);
            b.param(&name("norm1.weight"), &mut layer.norm1.gamma);
            b.param(&name("norm1.bias"), &mut layer.norm1.beta);
            if let Some(adaptive) = &mut layer.attn.span {
                let value = name("attn.attn.adaptive_span._mask.current_val");
                let template = || {
                    TensorData::new(
                        (0..span).map(|c| (c as f32) + 1.0 - span as f32).collect(),
                        [span],
                    )
                };
                b.param(&value, &mut adaptive.current_val);
                b.derived(
                    &name("attn.attn.adaptive_span._mask.mask_template"),
                    &template,
                );
                if layer.attn.persistent_memory.is_some() {
                    // Upstream registers the span under the memory as well, so its state has these names twice.
                    let again = "attn.attn.persistent_memory.adaptive_span._mask";
                    b.alias(&name(&format!("{again}.current_val")), &value);
                    b.derived(&name(&format!("{again}.mask_template")), &template);
                }
            }
            if let Some(dynamic) = &mut layer.attn.dynamic_span {
                b.linear(&name("attn.attn.dynamic_span.weight"), &mut dynamic.weight);
                b.param(&name("attn.attn.dynamic_span.bias"), &mut dynamic.bias);
            }
            if let Some(memory) = &mut layer.attn.persistent_memory {
                b.param(&name("attn.attn.persistent_memory.key"), &mut memory.key);
                b.param(&name("attn.attn.persistent_memory.val"), &mut memory.val);
            }
            if let Some(ff) = &mut layer.ff {
                b.linear(&name("ff.fc1.weight"), &mut ff.fc1_weight);
                b.param(&name("ff.fc1.bias"), &mut ff.fc1_bias);
                b.linear(&name("ff.fc2.weight"), &mut ff.fc2_weight);
                b.param(&name("ff.fc2.bias"), &mut ff.fc2_bias);
            }
            if let Some(norm2) = &mut layer.norm2 {
                b.param(&name("norm2.weight"), &mut norm2.gamma);
                b.param(&name("norm2.bias"), &mut norm2.beta);
            }
        }
    }
}

/// The file that holds the weights in a model folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The file that holds the configuration in a model folder.
pub const CONFIG_FILE: &str = "config.json";

impl TransformerSeq {
    /// Loads a folder with `config.json` and `model.safetensors` (or a torch file), strictly.
    ///
    /// # Errors
    /// A missing or damaged file, a wrong configuration, and every tensor that is missing, unused or misshapen, by name.
    pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let dir = dir.as_ref();
        let config = AdaptiveSpanConfig::from_file(dir.join(CONFIG_FILE))?;
        let file = [
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "model.pt",
        ]
        .map(|name| dir.join(name))
        .into_iter()
        .find(|file| file.exists())
        .unwrap_or_else(|| dir.join(WEIGHTS_FILE));
        Self::from_tensors(&config, pretrained::read_tensors(&file)?, &file, device)
    }

    /// A model with these weights, by upstream names with or without the prefix `module.`.
    ///
    /// # Errors
    /// Every tensor that is missing, unused or misshapen; `file` is named in the message.
    pub fn from_tensors(
        config: &AdaptiveSpanConfig,
        tensors: NamedTensors,
        file: &Path,
        device: &Device,
    ) -> Result<Self> {
        let config = with_vocabulary(config, &tensors)?;
        let model = config.init(Key::new(0), device)?;
        let options = LoadOptions {
            strip_prefix: Some("module.".into()),
            ignore: vec![],
        };
        let (model, _) = pretrained::load_weights(model, tensors, file, &options)?;
        for (i, layer) in model.layers.iter().enumerate() {
            let fractions = layer.attn.span.as_ref().map(|s| s.fractions().into_data());
            let inside = |z: &f32| (-1e-6..=1.0 + 1e-6).contains(z);
            let bad = fractions.and_then(|z| z.iter::<f32>().find(|z| !inside(z)));
            if let Some(z) = bad {
                return Err(crate::error::input(
                    "a learned span",
                    format!("{z} in layers.{i} of {}", file.display()),
                    "expected a fraction in [0, 1]; the checkpoint is damaged or its training had diverged",
                ));
            }
        }
        Ok(model)
    }

    /// Writes `config.json` and `model.safetensors`, which this crate and Python's `safetensors.torch.load_file` read back;
    /// the names are those of upstream's `state_dict`.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(|source| pretrained::Error::Io {
            path: dir.into(),
            action: "create",
            source,
        })?;
        let json = serde_json::to_string_pretty(self.config())
            .map_err(|e| wrong("model_type", e, "cannot be written as JSON"))?;
        pretrained::write_safetensors(&dir.join(WEIGHTS_FILE), &pretrained::collect_weights(self))?;
        pretrained::write_atomic(&dir.join(CONFIG_FILE), (json + "\n").as_bytes())?;
        Ok(())
    }
}

/// The vocabulary's size follows from the tensors where the configuration does not say it.
fn with_vocabulary(
    config: &AdaptiveSpanConfig,
    tensors: &NamedTensors,
) -> Result<AdaptiveSpanConfig> {
    let mut config = config.clone();
    if config.vocab_size.is_none() {
        let rows = |name: &str| {
            let data = tensors
                .get(name)
                .or_else(|| tensors.get(&format!("module.{name}")))?;
            data.shape().first().copied()
        };
        config.vocab_size = if config.adapt_io {
            (0..=config.adapt_io_cutoffs.len())
                .map(|i| rows(&format!("in_emb.emb_layers.{i}.weight")))
                .sum()
        } else {
            rows("in_emb.weight")
        };
    }
    Ok(config)
}
