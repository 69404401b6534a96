//! Upstream's variable names.

use super::config::PaperConfig;
use super::model::{Dense, PaperFeedForward, PaperTransformer};
use core_attn::pointwise::LayerNorm;
use pretrained::{Binder, Weights};

/// What every name of this model begins with.
pub(crate) fn prefix(config: &PaperConfig) -> &'static str {
    match config.frame() {
        Some(_) => "sparse_imagetransformer/body/",
        None => "sparse_transformer/body/",
    }
}

fn norm<B: Binder>(b: &mut B, name: &str, norm: &mut LayerNorm) {
    b.param(
        &format!("{name}/layer_norm/layer_norm_scale"),
        &mut norm.gamma,
    );
    b.param(
        &format!("{name}/layer_norm/layer_norm_bias"),
        &mut norm.beta,
    );
}

fn dense<B: Binder>(b: &mut B, name: &str, dense: &mut Dense) {
    b.param(&format!("{name}/kernel"), &mut dense.kernel);
    b.param(&format!("{name}/bias"), &mut dense.bias);
}

impl Weights for PaperTransformer {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        let body = prefix(self.config());
        let pictures = self.config().frame().is_some();
        let table = match pictures {
            true => "rgb_target_emb_channel",
            false => "embeddings/embedding",
        };
        b.param(&format!("{body}{table}"), &mut self.embedding);
        // Dense kernels are `[in, out]` on both sides.
        if let Some(d) = &mut self.emb_dense {
            dense(b, &format!("{body}emb_dense"), d);
        }
        if let Some(positions) = &mut self.positions {
            b.param(&format!("{body}pos_emb_0"), &mut positions.row);
            b.param(&format!("{body}pos_emb_1"), &mut positions.column);
            b.param(&format!("{body}pos_emb_2"), &mut positions.channel);
        }
        // Layers that normalise before their branches name the norms otherwise.
        let place = match self.config().pre_norm() {
            true => "layer_prepostprocess",
            false => "layer_postprocess",
        };
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let layer_name = format!("{body}decoder_layer_{i}/self_attention");
            let attention = format!("{layer_name}/self_attention");
            let a = &mut layer.attention;
            for (name, map) in [
                ("q", &mut a.q),
                ("k", &mut a.k),
                ("v", &mut a.v),
                ("output_transform", &mut a.output_transform),
                ("attention_nd/dense", &mut a.dense),
            ] {
                b.param(&format!("{attention}/{name}/kernel"), map);
            }
            let cluster = format!("{attention}/attention_nd/cluster_attention/cluster_attention");
            if let Some(kmeans) = &mut a.kmeans {
                b.param(&format!("{cluster}/means"), &mut kmeans.means);
                b.param(&format!("{cluster}/ema_count"), &mut kmeans.ema_count);
                b.param(&format!("{cluster}/ema_means"), &mut kmeans.ema_means);
            }
            let local = format!("{attention}/attention_nd/local_nd");
            for (place, tables) in [
                (cluster, &mut a.routed_relative),
                (local, &mut a.local_relative),
            ] {
                if let Some(t) = tables {
                    let name = |kind: &str| format!("{place}/relative_positions_{kind}/embeddings");
                    b.param(&name("keys"), &mut t.keys);
                    b.param(&name("values"), &mut t.values);
                }
            }
            norm(b, &format!("{layer_name}/{place}"), &mut layer.norm);
            norm(b, &format!("{layer_name}/{place}_1"), &mut layer.ffn_norm);
            let ffn = |name: &str| format!("{layer_name}/ffn/{name}");
            match &mut layer.ffn {
                PaperFeedForward::Geglu(ff) => {
                    b.param(&ffn("weight1/kernel"), &mut ff.weight1);
                    b.param(&ffn("weight2/kernel"), &mut ff.weight2);
                    b.param(&ffn("weight3/kernel"), &mut ff.weight3);
                }
                PaperFeedForward::Relu(ff) => {
                    b.param(&ffn("conv1/kernel"), &mut ff.conv1_kernel);
                    b.param(&ffn("conv1/bias"), &mut ff.conv1_bias);
                    b.param(&ffn("conv2/kernel"), &mut ff.conv2_kernel);
                    b.param(&ffn("conv2/bias"), &mut ff.conv2_bias);
                }
            }
        }
        if let Some(last) = &mut self.final_norm {
            norm(b, &format!("{body}layer_prepostprocess"), last);
        }
        if let Some(d) = &mut self.final_dense_1 {
            dense(b, &format!("{body}final_dense_1"), d);
        }
        let last = if pictures {
            "final_dense"
        } else {
            "final_dense_2"
        };
        dense(b, &format!("{body}{last}"), &mut self.final_dense_2);
    }
}
