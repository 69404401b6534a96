//! The classifiers of the official Long Range Arena code: pre-norm layers, positions from 0, no normalisation of embeddings.

use crate::attention::{AttentionOutput, AttentionSettings, Masking, NystromSelfAttention};
use crate::config::{LandmarkPolicy, odd_filter};
use crate::model::{bind_mha, padding_mask};
use crate::weights::{CONFIG_FILE, write_folder};
use bert::{
    Activation, EncoderInput, Mode, Norm, Projection, Result, TableSizes, config_error, indices,
    input_error,
};
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::dropout;
use core_attn::init;
use core_attn::low_rank::PinvInit;
use core_attn::random::Key;
use pretrained::{Binder, LoadOptions, NamedTensors, Weights};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How a sequence becomes one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
pub enum PoolingMode {
    /// The sum over the tokens divided by the full length, padding included.
    #[serde(rename = "MEAN")]
    Mean,
    /// The state of a token put in front: the last id of the vocabulary. The last token is dropped for it.
    #[serde(rename = "CLS")]
    Cls,
}

/// The configuration of the official LRA code, in its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LraConfig {
    /// Written into `config.json`, so that a folder tells what it is.
    pub model_type: String,
    /// Has no effect here: everything is computed in 32 bits.
    pub mixed_precision: bool,
    /// Must be true: the models have learned positions.
    pub learn_pos_emb: bool,
    /// Whether one block serves for all layers.
    pub tied_weights: bool,
    /// Width of the embeddings; must equal `transformer_dim`.
    pub embedding_dim: usize,
    /// Width of the hidden states.
    pub transformer_dim: usize,
    /// Width between the two maps of the feed-forward layer and of the head.
    pub transformer_hidden_dim: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of heads.
    pub num_head: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Number of token ids; a recipe takes it from the data. Id 0 is padding.
    pub vocab_size: Option<usize>,
    /// Rows of the position table, the greatest length.
    pub max_seq_len: usize,
    /// The attention's length, upstream's `seq_len`; absent: `max_seq_len`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_len: Option<usize>,
    /// Dropout after embeddings, attention and feed-forward maps.
    pub dropout_prob: f64,
    /// Kept for upstream; not applied, as there.
    pub attention_dropout: f64,
    /// How a sequence becomes one vector.
    pub pooling_mode: PoolingMode,
    /// Number of classes; a recipe takes it from the data.
    pub num_classes: Option<usize>,
    /// `softmax` for full attention without convolution, or `nystrom` with any label behind it; `num_landmarks` decides.
    pub attn_type: String,
    /// Has no effect on the results and none here.
    pub attention_grad_checkpointing: bool,
    /// Number of landmarks; equal to the length: full attention with convolution.
    pub num_landmarks: usize,
    /// Places of the convolution's filters, an odd number; absent: no convolution.
    #[serde(default)]
    pub conv_kernel_size: Option<usize>,
    /// Iterations of the pseudo-inverse; ours, upstream has 6.
    pub pinv_iterations: usize,
    /// Upstream's key: whether the pseudo-inverse starts from each matrix's own column sums, which makes a sample's result
    /// independent of its batch.
    pub inv_coeff_init_option: bool,
    /// Which rows make the landmarks; ours. At upstream's lengths `uneven` and `strict` are the same.
    pub landmark_policy: LandmarkPolicy,
}

impl Default for LraConfig {
    fn default() -> Self {
        Self {
            model_type: "nystromformer-lra".into(),
            mixed_precision: false,
            learn_pos_emb: true,
            tied_weights: false,
            embedding_dim: 64,
            transformer_dim: 64,
            transformer_hidden_dim: 128,
            head_dim: 32,
            num_head: 2,
            num_layers: 2,
            vocab_size: None,
            max_seq_len: 2048,
            seq_len: None,
            dropout_prob: 0.1,
            attention_dropout: 0.1,
            pooling_mode: PoolingMode::Mean,
            num_classes: None,
            attn_type: "nystrom".into(),
            attention_grad_checkpointing: false,
            num_landmarks: 64,
            conv_kernel_size: None,
            pinv_iterations: 6,
            inv_coeff_init_option: false,
            landmark_policy: LandmarkPolicy::Uneven,
        }
    }
}

impl LraConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, or a value the model cannot have, with its key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let config: Self = pretrained::read_json(path.as_ref())?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every value that the model depends on.
    ///
    /// # Errors
    /// The first value the model cannot have, by its key.
    pub fn validate(&self) -> Result<()> {
        if self.model_type != "nystromformer-lra" {
            let expected = "expected \"nystromformer-lra\"";
            return Err(config_error(
                "model_type",
                format!("{:?}", self.model_type),
                expected,
            ));
        }
        for (key, n) in [
            ("embedding_dim", self.embedding_dim),
            ("transformer_dim", self.transformer_dim),
            ("transformer_hidden_dim", self.transformer_hidden_dim),
            ("head_dim", self.head_dim),
            ("num_head", self.num_head),
            ("max_seq_len", self.max_seq_len),
            ("num_landmarks", self.num_landmarks),
            ("vocab_size", self.vocab_size.unwrap_or(1)),
            ("num_classes", self.num_classes.unwrap_or(1)),
        ] {
            if n == 0 || n > 1 << 24 {
                return Err(config_error(key, n, "expected 1 to 2^24"));
            }
        }
        if self.embedding_dim != self.transformer_dim {
            let expected = format!("expected transformer_dim = {}", self.transformer_dim);
            return Err(config_error("embedding_dim", self.embedding_dim, expected));
        }
        if !self.learn_pos_emb {
            let expected = "expected true: these models have learned positions";
            return Err(config_error("learn_pos_emb", false, expected));
        }
        if self.seq_len.is_some_and(|n| n != self.max_seq_len) {
            let expected = format!("expected max_seq_len = {}, or nothing", self.max_seq_len);
            return Err(config_error("seq_len", self.seq_len.unwrap_or(0), expected));
        }
        if !self.full() && !self.attn_type.starts_with("nystrom") {
            let expected = "expected \"softmax\" or \"nystrom\"; other attentions of the LRA code are not in this crate";
            return Err(config_error(
                "attn_type",
                format!("{:?}", self.attn_type),
                expected,
            ));
        }
        let (n, m) = (self.max_seq_len, self.num_landmarks);
        if self.landmark_policy == LandmarkPolicy::Strict && (m > n || !n.is_multiple_of(m)) {
            let expected = format!(
                "expected a divisor of max_seq_len = {n}, or set landmark_policy to \"uneven\""
            );
            return Err(config_error("num_landmarks", m, expected));
        }
        odd_filter("conv_kernel_size", self.conv_kernel_size)?;
        for (key, rate) in [
            ("dropout_prob", self.dropout_prob),
            ("attention_dropout", self.attention_dropout),
        ] {
            if !(0.0..1.0).contains(&rate) {
                return Err(config_error(key, rate, "expected a share in [0, 1)"));
            }
        }
        Ok(())
    }

    fn full(&self) -> bool {
        self.attn_type == "softmax"
    }

    /// A size that a recipe takes from its data.
    fn known(key: &str, value: Option<usize>) -> Result<usize> {
        value.ok_or_else(|| {
            let expected = "a model built without a recipe's data must say it";
            config_error(key, "absent", expected)
        })
    }

    fn attention(&self) -> AttentionSettings {
        AttentionSettings {
            heads: self.num_head,
            head_dim: self.head_dim,
            landmarks: (!self.full()).then_some(self.num_landmarks),
            length: self.max_seq_len,
            policy: self.landmark_policy,
            iterations: self.pinv_iterations,
            init: match self.inv_coeff_init_option {
                true => PinvInit::Exact,
                false => PinvInit::Original,
            },
            masking: Masking::Rows,
        }
    }
}

/// One pre-norm layer: `x += drop(MHA(LN x))`, `x += MLP(LN x)`.
#[derive(Module, Debug)]
pub struct LraBlock {
    /// Before the attention.
    pub norm1: Norm,
    /// Attention with its convolution.
    pub attention: NystromSelfAttention,
    /// `[heads * head_dim, hidden]`, behind the attention.
    pub output: Projection,
    /// Before the feed-forward maps.
    pub norm2: Norm,
    /// `[hidden, inner]`, with the exact GELU behind it.
    pub inner: Projection,
    /// `[inner, hidden]`.
    pub outer: Projection,
    dropout: f64,
}

impl LraBlock {
    fn new(config: &LraConfig, key: Key, device: &Device) -> Self {
        let (d, inner) = (config.transformer_dim, config.transformer_hidden_dim);
        let width = config.num_head * config.head_dim;
        let filter = config.conv_kernel_size.filter(|_| !config.full());
        let map = |from: usize, to: usize, site: &str| fan_in(from, to, key.site(site), device);
        let mut attention = NystromSelfAttention::new(
            d,
            filter,
            config.attention(),
            0.02,
            key.site("attention"),
            device,
        );
        attention.query = map(d, width, "W_q");
        attention.key = map(d, width, "W_k");
        attention.value = map(d, width, "W_v");
        if let Some(size) = filter {
            // torch's default for a convolution whose filters see `size` places each.
            let bound = (size as f64).powf(-0.5);
            let shape = [config.num_head, 1, size, 1];
            attention.conv = Some(init::uniform(shape, bound, key.site("conv"), device));
        }
        Self {
            norm1: Norm::new(d, 1e-5, device),
            attention,
            output: map(width, d, "ff"),
            norm2: Norm::new(d, 1e-5, device),
            inner: map(d, inner, "inner"),
            outer: map(inner, d, "outer"),
            dropout: config.dropout_prob,
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<&Tensor<2>>,
        mode: Mode,
    ) -> Result<(Tensor<3>, AttentionOutput)> {
        let drop = mode.dropout(self.dropout)?;
        let attention = self
            .attention
            .forward(self.norm1.forward(x.clone()), mask)?;
        let out = self.output.forward(attention.merged());
        let x = x + dropout(out, drop.site("attention"));
        let inner = Activation::Gelu.apply(self.inner.forward(self.norm2.forward(x.clone())));
        let out = self.outer.forward(dropout(inner, drop.site("inner")));
        Ok((x + dropout(out, drop.site("outer")), attention))
    }

    fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        let at = |rest: &str| format!("{name}.{rest}");
        self.norm1.bind(b, &at("norm1"));
        bind_mha(&mut self.attention, &mut self.output, b, &at("mha"));
        self.norm2.bind(b, &at("norm2"));
        self.inner.bind(b, &at("mlpblock.0"));
        self.outer.bind(b, &at("mlpblock.3"));
    }
}

/// torch's initialisation of a linear map: U(±1/√fan-in) for weight and bias.
fn fan_in(from: usize, to: usize, key: Key, device: &Device) -> Projection {
    let bound = (from as f64).powf(-0.5);
    Projection {
        weight: init::uniform([from, to], bound, key, device),
        bias: init::uniform([to], bound, key.site("bias"), device),
    }
}

/// Embeddings, blocks and the last normalisation.
#[derive(Module, Debug)]
pub struct LraEncoder {
    /// `[vocab, hidden]`.
    pub word_embeddings: Param<Tensor<2>>,
    /// `[max_seq_len, hidden]`.
    pub position_embeddings: Param<Tensor<2>>,
    /// The layers, first to last; one for all of them with `tied_weights`.
    pub blocks: Vec<LraBlock>,
    /// Behind the last layer.
    pub norm: Norm,
    #[module(skip)]
    config: LraConfig,
}

/// What an encoder gives for one sequence of each sample.
#[derive(Debug, Clone)]
pub struct LraOutput {
    /// States behind the last normalisation, zero at padding: `[batch, length, hidden]`.
    pub tokens: Tensor<3>,
    /// `[batch, hidden]`.
    pub pooled: Tensor<2>,
    /// The first layer's attention.
    pub first_attention: Option<AttentionOutput>,
}

impl LraEncoder {
    fn new(config: &LraConfig, key: Key, device: &Device) -> Result<Self> {
        config.validate()?;
        let vocab = LraConfig::known("vocab_size", config.vocab_size)?;
        let d = config.transformer_dim;
        let blocks = match config.tied_weights {
            true => config.num_layers.min(1),
            false => config.num_layers,
        };
        let positions = [config.max_seq_len, d];
        Ok(Self {
            word_embeddings: init::normal([vocab, d], 0.02, key.site("word"), device),
            position_embeddings: init::normal(positions, 0.02, key.site("position"), device),
            blocks: (0..blocks)
                .map(|i| LraBlock::new(config, key.site("blocks").fold(i as u64), device))
                .collect(),
            norm: Norm::new(d, 1e-5, device),
            config: config.clone(),
        })
    }

    /// Ids with their mask to states and one vector per sequence.
    ///
    /// # Errors
    /// Ids outside the vocabulary, and lengths that the position table or the landmark policy do not allow.
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<LraOutput> {
        let config = &self.config;
        let cls;
        let input = match config.pooling_mode {
            PoolingMode::Mean => input,
            PoolingMode::Cls => {
                cls = self.with_class_token(input)?;
                &cls
            }
        };
        let [vocab, d] = self.word_embeddings.val().dims();
        input.check(TableSizes {
            words: vocab,
            positions: config.max_seq_len,
            types: 1,
        })?;
        let (batch, length) = (input.batch(), input.length());
        if length > config.max_seq_len {
            let expected = format!("expected at most max_seq_len = {}", config.max_seq_len);
            return Err(input_error(
                "input_ids",
                format!("{length} tokens long"),
                expected,
            ));
        }
        let words = self.word_embeddings.val();
        let device = words.device();
        let words = words
            .select(0, indices(input.input_ids(), &device))
            .reshape([batch, length, d]);
        let positions = self.position_embeddings.val().narrow(0, 0, length);
        let drop = mode.dropout(config.dropout_prob)?;
        let mut x = dropout(words + positions.unsqueeze(), drop.site("embeddings"));
        let mask = padding_mask(input, &device);
        let mut first_attention = None;
        for i in 0..config.num_layers {
            let block = &self.blocks[i.min(self.blocks.len() - 1)];
            let mode = mode.site("layer").fold(i as u64);
            let (y, attention) = block.forward(x, mask.as_ref(), mode)?;
            x = y;
            if i == 0 {
                first_attention = Some(attention);
            }
        }
        let mut tokens = self.norm.forward(x);
        if let Some(mask) = mask {
            tokens = tokens * mask.reshape([batch, length, 1]);
        }
        let pooled = match config.pooling_mode {
            PoolingMode::Mean => tokens.clone().mean_dim(1).reshape([batch, d]),
            PoolingMode::Cls => bert::first_token(tokens.clone()),
        };
        Ok(LraOutput {
            tokens,
            pooled,
            first_attention,
        })
    }

    /// The class token in front, the last token dropped.
    fn with_class_token(&self, input: &EncoderInput) -> Result<EncoderInput> {
        let [vocab, _] = self.word_embeddings.val().dims();
        let (batch, length) = (input.batch(), input.length());
        fn shift<T: Copy>(rows: &[T], length: usize, first: T) -> Vec<T> {
            let row = |row: &[T]| {
                let rest = row[..length - 1].to_vec();
                std::iter::once(first).chain(rest).collect::<Vec<_>>()
            };
            rows.chunks_exact(length).flat_map(row).collect()
        }
        let ids = shift(input.input_ids(), length, vocab as i64 - 1);
        let shifted = EncoderInput::new(ids, batch, length)?;
        match input.attention_mask() {
            Some(mask) => shifted.with_attention_mask(shift(mask, length, true)),
            None => Ok(shifted),
        }
    }

    fn bind<B: Binder>(&mut self, b: &mut B) {
        b.param(
            "model.embeddings.word_embeddings.weight",
            &mut self.word_embeddings,
        );
        b.param(
            "model.embeddings.position_embeddings.weight",
            &mut self.position_embeddings,
        );
        let tied = self.config.tied_weights;
        for (i, block) in self.blocks.iter_mut().enumerate() {
            match tied {
                true => block.bind(b, "model.transformer"),
                false => block.bind(b, &format!("model.transformer_{i}")),
            }
        }
        self.norm.bind(b, "model.norm");
    }
}

/// `Linear → ReLU → Linear` over the pooled vectors.
#[derive(Module, Debug)]
pub struct LraHead {
    /// `[inputs, inner]`.
    pub inner: Projection,
    /// `[inner, classes]`.
    pub outer: Projection,
}

impl LraHead {
    fn new(config: &LraConfig, inputs: usize, key: Key, device: &Device) -> Result<Self> {
        let classes = LraConfig::known("num_classes", config.num_classes)?;
        let inner = config.transformer_hidden_dim;
        Ok(Self {
            inner: fan_in(inputs, inner, key.site("inner"), device),
            outer: fan_in(inner, classes, key.site("outer"), device),
        })
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.outer
            .forward(Activation::Relu.apply(self.inner.forward(x)))
    }

    fn bind<B: Binder>(&mut self, b: &mut B) {
        // Upstream's spelling.
        self.inner.bind(b, "seq_classifer.mlpblock.0");
        self.outer.bind(b, "seq_classifer.mlpblock.2");
    }
}

/// Sorts sequences: ListOps, Text, Image, Pathfinder.
#[derive(Module, Debug)]
pub struct LraClassifier {
    /// The encoder.
    pub model: LraEncoder,
    /// To the classes.
    pub head: LraHead,
}

/// Sorts pairs of sequences: Retrieval.
#[derive(Module, Debug)]
pub struct LraDualClassifier {
    /// The encoder of both.
    pub model: LraEncoder,
    /// From `[x0, x1, x0 ⊙ x1, x0 − x1]` to the classes.
    pub head: LraHead,
}

impl LraClassifier {
    /// A freshly initialised model, drawn from `key`: embeddings N(0, 0.02²), maps U(±1/√fan-in).
    ///
    /// # Errors
    /// A configuration that [`LraConfig::validate`] refuses, or one without sizes of vocabulary and classes.
    pub fn new(config: &LraConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            model: LraEncoder::new(config, key.site("model"), device)?,
            head: LraHead::new(config, config.transformer_dim, key.site("head"), device)?,
        })
    }

    /// Scores of the classes `[batch, classes]`, and what the encoder gave.
    ///
    /// # Errors
    /// As [`LraEncoder::forward`].
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<(Tensor<2>, LraOutput)> {
        let out = self.model.forward(input, mode)?;
        Ok((self.head.forward(out.pooled.clone()), out))
    }
}

impl LraDualClassifier {
    /// As [`LraClassifier::new`].
    ///
    /// # Errors
    /// As [`LraClassifier::new`].
    pub fn new(config: &LraConfig, key: Key, device: &Device) -> Result<Self> {
        Ok(Self {
            model: LraEncoder::new(config, key.site("model"), device)?,
            head: LraHead::new(config, 4 * config.transformer_dim, key.site("head"), device)?,
        })
    }

    /// Scores of the classes `[batch, classes]`, and what the encoder gave for either sequence.
    ///
    /// # Errors
    /// As [`LraEncoder::forward`]; sequences of different number.
    pub fn forward(
        &self,
        inputs: [&EncoderInput; 2],
        mode: Mode,
    ) -> Result<(Tensor<2>, [LraOutput; 2])> {
        if inputs[0].batch() != inputs[1].batch() {
            let expected = format!("expected {} sequences, as the first", inputs[0].batch());
            return Err(input_error("input_ids_1", inputs[1].batch(), expected));
        }
        let first = self.model.forward(inputs[0], mode.site("first"))?;
        let second = self.model.forward(inputs[1], mode.site("second"))?;
        let (a, b) = (first.pooled.clone(), second.pooled.clone());
        let both = vec![a.clone(), b.clone(), a.clone() * b.clone(), a - b];
        Ok((self.head.forward(Tensor::cat(both, 1)), [first, second]))
    }
}

macro_rules! folders {
    ($($class:ty),+) => {$(
        impl Weights for $class {
            fn bind<B: Binder>(&mut self, b: &mut B) {
                self.model.bind(b);
                self.head.bind(b);
            }
        }

        impl $class {
            /// The model's configuration.
            pub fn config(&self) -> &LraConfig {
                &self.model.config
            }

            /// A model with these weights, by upstream's names with or without the prefix `module.`.
            ///
            /// # Errors
            /// Every tensor that is missing, unused or misshapen; `file` is named in the message.
            pub fn from_tensors(
                config: &LraConfig,
                tensors: NamedTensors,
                file: &Path,
                device: &Device,
            ) -> Result<Self> {
                let model = Self::new(&sized_by(config, &tensors), Key::new(0), device)?;
                let options = LoadOptions {
                    strip_prefix: Some("module.".into()),
                    ignore: vec!["model.embeddings.position_ids".into()],
                };
                Ok(pretrained::load_weights(model, tensors, file, &options)?.0)
            }

            /// Loads a folder with `config.json` and weights, strictly.
            ///
            /// # Errors
            /// A missing or damaged file, a wrong configuration, and every tensor that is missing, unused or misshapen.
            pub fn from_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
                let dir = dir.as_ref();
                let config = LraConfig::from_file(dir.join(CONFIG_FILE))?;
                let file = pretrained::weights_file(dir)?;
                Self::from_tensors(&config, pretrained::read_tensors(&file)?, &file, device)
            }

            /// Writes `config.json` and `model.safetensors`; the names are those of upstream's `state_dict`.
            ///
            /// # Errors
            /// A folder or file that cannot be written.
            pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
                write_folder(dir.as_ref(), self.config(), &pretrained::collect_weights(self))
            }
        }
    )+};
}

folders!(LraClassifier, LraDualClassifier);

/// Sizes that the configuration leaves to the data follow from the tensors.
fn sized_by(config: &LraConfig, tensors: &NamedTensors) -> LraConfig {
    let rows = |name: &str| {
        let data = tensors
            .get(name)
            .or_else(|| tensors.get(&format!("module.{name}")))?;
        data.shape().first().copied()
    };
    let mut config = config.clone();
    let words = "model.embeddings.word_embeddings.weight";
    config.vocab_size = config.vocab_size.or_else(|| rows(words));
    let classes = "seq_classifer.mlpblock.2.weight";
    config.num_classes = config.num_classes.or_else(|| rows(classes));
    config
}
