//! The package's tensor names.

use super::model::{BranchNorm, LucidrainsTransformer};
use burn::tensor::TensorData;
use core_attn::pointwise::LayerNorm;
use core_attn::routed::rotary::angle;
use pretrained::{Binder, NamedTensors, Weights};

fn norm<B: Binder>(b: &mut B, name: &str, norm: &mut LayerNorm) {
    b.param(&format!("{name}.weight"), &mut norm.gamma);
    b.param(&format!("{name}.bias"), &mut norm.beta);
}

fn branch<B: Binder>(b: &mut B, name: &str, branch: &mut BranchNorm) {
    match branch {
        BranchNorm::Layer(layer) => norm(b, &format!("{name}.norm"), layer),
        BranchNorm::Scale(g) => b.param(&format!("{name}.norm.g"), g),
        BranchNorm::Rezero(w) => b.param(&format!("{name}.residual_weight"), w),
    }
}

/// `[sin | cos]` of the angles of every position.
fn positions(length: usize, width: usize) -> TensorData {
    let half = width / 2;
    let row = |t: usize| {
        let side = move |f: fn(f64) -> f64| (0..half).map(move |i| f(angle(t, i, width)) as f32);
        side(f64::sin).chain(side(f64::cos))
    };
    TensorData::new((0..length).flat_map(row).collect(), [length, 2 * half])
}

impl Weights for LucidrainsTransformer {
    fn bind<B: Binder>(&mut self, b: &mut B) {
        let config = self.config().clone();
        let width = config.head_dim();
        b.param("token_emb.weight", &mut self.token_emb);
        b.derived("sinu_pos_emb.emb", &|| positions(config.max_seq_len, width));
        let body = match &mut self.projections {
            Some(p) => {
                let name = |rest: &str| format!("routing_transformer.{rest}");
                b.linear(&name("project_in.weight"), &mut p.project_in);
                b.param(&name("project_in.bias"), &mut p.project_in_bias);
                b.linear(&name("project_out.weight"), &mut p.project_out);
                b.param(&name("project_out.bias"), &mut p.project_out_bias);
                "routing_transformer.fn"
            }
            None => "routing_transformer",
        };
        // Shifting tokens wraps the branch once more.
        let wrapped = if config.shift_tokens { "fn.fn" } else { "fn" };
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let layer_name = format!("{body}.layers.layers.{i}");
            branch(b, &format!("{layer_name}.0"), &mut layer.norm);
            let name = |rest: &str| format!("{layer_name}.0.{wrapped}.{rest}");
            let a = &mut layer.attention;
            if let (Some(map), Some(bias)) = (&mut a.local_to_qkv, &mut a.local_to_qkv_bias) {
                b.linear(&name("local_to_qkv.weight"), map);
                b.param(&name("local_to_qkv.bias"), bias);
                b.derived(&name("local_attn.rel_pos.inv_freq"), &|| {
                    let values = (0..width / 2).map(|i| angle(1, i, width) as f32).collect();
                    TensorData::new(values, [width / 2])
                });
            }
            // A part of no heads or slots is there all the same, without elements: torch's strict loading asks for it.
            let none = |shape: Vec<usize>| TensorData::new(Vec::<f32>::new(), shape);
            if a.routing.is_none() {
                for map in ["to_q", "to_v", "to_k"] {
                    if map != "to_k" || !config.shared() {
                        b.derived(&name(&format!("{map}.weight")), &|| {
                            none(vec![0, config.dim])
                        });
                    }
                }
            }
            if let Some(heads) = &mut a.routing {
                b.linear(&name("to_q.weight"), &mut heads.to_q);
                if let Some(to_k) = &mut heads.to_k {
                    b.linear(&name("to_k.weight"), to_k);
                }
                b.linear(&name("to_v.weight"), &mut heads.to_v);
                let kmeans = &mut heads.kmeans;
                b.param(&name("global_attn.kmeans.means"), &mut kmeans.means);
                let initted = kmeans.initted;
                b.derived(&name(INITTED), &|| TensorData::new(vec![initted], [1]));
                if let Some(memory) = &mut heads.memory {
                    b.param(&name("global_attn.mem_key"), &mut memory.key);
                    b.param(&name("global_attn.mem_value"), &mut memory.value);
                } else {
                    let [heads, clusters, _] = kmeans.means.shape().dims();
                    for part in ["mem_key", "mem_value"] {
                        let shape = vec![heads, clusters, 0, width];
                        let name = name(&format!("global_attn.{part}"));
                        b.derived(&name, &|| none(shape.clone()));
                    }
                }
            }
            b.linear(&name("to_out.weight"), &mut a.to_out);
            branch(b, &format!("{layer_name}.1"), &mut layer.ff_norm);
            let name = |rest: &str| format!("{layer_name}.1.{wrapped}.fn.{rest}");
            b.linear(&name("w1.weight"), &mut layer.ff.w1);
            b.param(&name("w1.bias"), &mut layer.ff.w1_bias);
            b.linear(&name("w2.weight"), &mut layer.ff.w2);
            b.param(&name("w2.bias"), &mut layer.ff.w2_bias);
        }
        norm(b, "norm", &mut self.norm);
        match (&mut self.out, &mut self.out_bias) {
            (Some(out), Some(bias)) => {
                b.linear("out.weight", out);
                b.param("out.bias", bias);
            }
            _ => b.alias("out.tensor", "token_emb.weight"),
        }
    }
}

const INITTED: &str = "global_attn.kmeans.initted";

/// Marks the layers whose centroids a file says were taken from data: a buffer that decides what the next training step does.
pub(crate) fn take_initted(
    mut model: LucidrainsTransformer,
    tensors: &NamedTensors,
) -> LucidrainsTransformer {
    let said = |layer: usize| {
        let inside = format!(".layers.layers.{layer}.0.");
        let mut flags = tensors
            .iter()
            .filter(|(name, _)| name.contains(&inside) && name.ends_with(INITTED));
        flags
            .next()
            .map(|(_, data)| data.iter::<f32>().next().unwrap_or(0.0) != 0.0)
    };
    for (i, layer) in model.layers.iter_mut().enumerate() {
        if let (Some(heads), Some(initted)) = (&mut layer.attention.routing, said(i)) {
            heads.kmeans.initted = initted;
        }
    }
    model
}
