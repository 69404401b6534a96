//! Words, positions and segments to vectors.

use crate::config::{BertConfig, Variant};
use crate::error::{Result, input_error};
use crate::input::{EncoderInput, TableSizes};
use crate::parts::{Mode, Norm};
use burn::module::{Module, Param};
use burn::prelude::*;
use core_attn::dropout::dropout;
use core_attn::init;
use core_attn::random::Key;
use pretrained::Binder;

/// Which row of the position table a token takes where none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionRule {
    /// `offset, offset + 1, …` for every slot, padding included. BERT: 0. Nyströmformer, and RoBERTa in the code of 2019: 2.
    Slots {
        /// Position of the first slot.
        offset: usize,
    },
    /// RoBERTa: `pad + 1, pad + 2, …` over the tokens whose id is not `pad`, and `pad` for those whose id is.
    RealTokens {
        /// Id of the padding token.
        pad: usize,
    },
}

/// `dropout(LN(word[id] + segment[type] + position[p]))`.
#[derive(Module, Debug)]
pub struct BertEmbeddings {
    /// `[vocab, hidden]`.
    pub word_embeddings: Param<Tensor<2>>,
    /// `[positions, hidden]`.
    pub position_embeddings: Param<Tensor<2>>,
    /// `[segments, hidden]`.
    pub token_type_embeddings: Param<Tensor<2>>,
    /// Over the sum.
    pub norm: Norm,
    /// Share of the elements dropped in training.
    pub dropout: f64,
    /// The word whose look-up takes no gradient, as PyTorch's `padding_idx`.
    pub padding: Option<usize>,
    /// Where positions come from.
    #[module(skip)]
    pub positions: PositionRule,
}

/// Sizes and constants of [`BertEmbeddings`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingsConfig {
    /// Rows of the three tables.
    pub tables: TableSizes,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Standard deviation of the initial weights.
    pub std: f64,
    /// Added to the variance in the normalisation.
    pub eps: f64,
    /// Share of the elements dropped in training.
    pub dropout: f64,
    /// Id of the padding token.
    pub padding: Option<usize>,
    /// Where positions come from.
    pub positions: PositionRule,
}

impl EmbeddingsConfig {
    /// What a BERT's or RoBERTa's configuration says.
    ///
    /// # Errors
    /// An unknown `model_type`.
    pub fn of(config: &BertConfig) -> Result<Self> {
        Ok(Self {
            tables: TableSizes {
                words: config.vocab_size,
                positions: config.max_position_embeddings,
                types: config.type_vocab_size,
            },
            hidden: config.hidden_size,
            std: config.initializer_range,
            eps: config.layer_norm_eps,
            dropout: config.hidden_dropout_prob,
            padding: config.pad_token_id,
            positions: match config.variant()? {
                Variant::Bert => PositionRule::Slots { offset: 0 },
                Variant::Roberta => PositionRule::RealTokens {
                    pad: config.pad_token_id.unwrap_or(1),
                },
            },
        })
    }
}

impl BertEmbeddings {
    /// Tables N(0, `std`²), the padding token's row 0.
    pub fn new(config: &EmbeddingsConfig, key: Key, device: &Device) -> Self {
        let table = |rows: usize, site: &str, zero: Option<usize>| {
            let site = key.site(site);
            let width = config.hidden as u64;
            let values: Vec<f32> = (0..rows as u64 * width)
                .map(|i| match zero.is_some_and(|row| row as u64 == i / width) {
                    true => 0.0,
                    false => (config.std * site.normal(i)) as f32,
                })
                .collect();
            let data = TensorData::new(values, [rows, config.hidden]);
            init::from_tensor(Tensor::from_data(data, device))
        };
        let padded_positions = match config.positions {
            PositionRule::RealTokens { pad } => Some(pad),
            PositionRule::Slots { .. } => None,
        };
        Self {
            word_embeddings: table(config.tables.words, "word", config.padding),
            position_embeddings: table(config.tables.positions, "position", padded_positions),
            token_type_embeddings: table(config.tables.types, "token_type", None),
            norm: Norm::new(config.hidden, config.eps, device),
            dropout: config.dropout,
            padding: config.padding,
            positions: config.positions,
        }
    }

    /// The tables' sizes.
    pub fn tables(&self) -> TableSizes {
        let rows = |table: &Param<Tensor<2>>| table.val().dims()[0];
        TableSizes {
            words: rows(&self.word_embeddings),
            positions: rows(&self.position_embeddings),
            types: rows(&self.token_type_embeddings),
        }
    }

    /// Ids to `[batch, length, hidden]`; everything about `input` is checked here.
    ///
    /// # Errors
    /// Ids outside the tables, a sequence longer than the position table, a sequence without a real token.
    pub fn forward(&self, input: &EncoderInput, mode: Mode) -> Result<Tensor<3>> {
        let sum = self.lookup(input)?;
        let width = sum.dims()[2];
        self.finish(sum, width, mode)
    }

    /// [`BertEmbeddings::forward`] with the first `width` elements of every vector.
    ///
    /// # Errors
    /// As [`BertEmbeddings::forward`].
    pub fn forward_sliced(
        &self,
        input: &EncoderInput,
        width: usize,
        mode: Mode,
    ) -> Result<Tensor<3>> {
        let sum = self.lookup(input)?;
        self.finish(sum, width, mode)
    }

    fn finish(&self, sum: Tensor<3>, width: usize, mode: Mode) -> Result<Tensor<3>> {
        let sum = match sum.dims()[2] == width {
            true => sum,
            false => sum.narrow(2, 0, width),
        };
        let drop = mode.site("embeddings").dropout(self.dropout)?;
        Ok(dropout(self.norm.forward(sum), drop))
    }

    /// The sum of the three tables' rows, `[batch, length, hidden]`, before the normalisation.
    ///
    /// # Errors
    /// As [`BertEmbeddings::forward`].
    pub fn lookup(&self, input: &EncoderInput) -> Result<Tensor<3>> {
        let tables = self.tables();
        input.check(tables)?;
        let words = rows(
            &self.word_embeddings.val(),
            input.input_ids(),
            input,
            self.padding,
        );
        let types = self.token_type_embeddings.val();
        let hidden = types.dims()[1];
        let types = match input.token_type_ids() {
            None => types.narrow(0, 0, 1).reshape([1, 1, hidden]),
            Some(ids) => rows(&types, ids, input, None),
        };
        Ok(words + types + self.position_rows(input, tables)?)
    }

    fn position_rows(&self, input: &EncoderInput, tables: TableSizes) -> Result<Tensor<3>> {
        let table = self.position_embeddings.val();
        let [_, hidden] = table.dims();
        let length = input.length();
        let too_long = |last: usize| {
            input_error(
                "input_ids",
                format!("{length} tokens long"),
                format!(
                    "the last would be at position {last}, and max_position_embeddings is {}; truncate the text",
                    tables.positions
                ),
            )
        };
        let (ids, padding) = match (input.position_ids(), self.positions) {
            (None, PositionRule::Slots { offset }) => {
                let end = offset + length;
                if end > tables.positions {
                    return Err(too_long(end - 1));
                }
                let table = table.narrow(0, offset, length);
                return Ok(table.reshape([1, length, hidden]));
            }
            (Some(ids), PositionRule::Slots { .. }) => (ids.to_vec(), None),
            (Some(ids), PositionRule::RealTokens { pad }) => (ids.to_vec(), Some(pad)),
            (None, PositionRule::RealTokens { pad }) => (real_positions(input, pad), Some(pad)),
        };
        if let Some(last) = ids.iter().find(|p| **p >= tables.positions as i64) {
            return Err(too_long(*last as usize));
        }
        Ok(rows(&table, &ids, input, padding))
    }

    /// Binds the three tables and the normalisation under `name`.
    pub fn bind<B: Binder>(&mut self, b: &mut B, name: &str) {
        let at = |rest: &str| format!("{name}.{rest}.weight");
        b.param(&at("word_embeddings"), &mut self.word_embeddings);
        b.param(&at("position_embeddings"), &mut self.position_embeddings);
        b.param(
            &at("token_type_embeddings"),
            &mut self.token_type_embeddings,
        );
        self.norm.bind(b, &format!("{name}.LayerNorm"));
    }
}

/// RoBERTa's positions: a count of the tokens that are not padding, from `pad + 1`.
fn real_positions(input: &EncoderInput, pad: usize) -> Vec<i64> {
    let pad = pad as i64;
    let row = |row: &[i64]| {
        let positions = row.iter().scan(pad, |last, &id| {
            Some(match id == pad {
                true => pad,
                false => {
                    *last += 1;
                    *last
                }
            })
        });
        positions.collect::<Vec<_>>()
    };
    let rows = input.input_ids().chunks(input.length());
    rows.flat_map(row).collect()
}

/// Rows of a table, `[batch, length, hidden]`. Look-ups of `padding` take no gradient, as in PyTorch.
fn rows(table: &Tensor<2>, ids: &[i64], input: &EncoderInput, padding: Option<usize>) -> Tensor<3> {
    let [_, hidden] = table.dims();
    let device = table.device().without_autodiff();
    let n = ids.len();
    let host: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(host, [n]), &device);
    let found = table.clone().select(0, index);
    let found = match padding.map(|p| p as i64) {
        Some(pad) if table.device().is_autodiff() && ids.contains(&pad) => {
            let hit: Vec<bool> = ids.iter().map(|id| *id == pad).collect();
            let hit = Tensor::<2, Bool>::from_data(TensorData::new(hit, [n, 1]), &device);
            let fixed = found.clone().detach();
            found.mask_where(hit.expand([n, hidden]), fixed)
        }
        _ => found,
    };
    found.reshape([input.batch(), input.length(), hidden])
}
