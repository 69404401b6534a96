//! Loading, saving and gradients of a small module by its table, on every CPU backend.

mod common;

use std::path::Path;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};
use common::{named, tensor};
use pretrained::{
    Binder, Error, LoadOptions, NamedTensors, TensorProblem, Weights, collect_gradients,
    collect_weights, load_weights,
};

#[derive(Module, Debug)]
struct Tiny {
    embedding: Param<Tensor<2>>,  // [vocabulary, hidden]
    projection: Param<Tensor<2>>, // [in, out]
    bias: Param<Tensor<1>>,
    key_pe: Param<Tensor<3>>,
    scale: Param<Tensor<1>>, // a scalar upstream
}

impl Weights for Tiny {
    fn bind<B: Binder>(&mut self, binder: &mut B) {
        binder.param("emb.weight", &mut self.embedding);
        binder.linear("proj.weight", &mut self.projection);
        binder.param("proj.bias", &mut self.bias);
        binder.param("key_pe", &mut self.key_pe);
        binder.param("scale", &mut self.scale);
        binder.derived("mask.template", &|| tensor(&[-1.0, 0.0], &[2]));
        binder.alias("out.weight", "emb.weight");
        binder.alias("span.mask.template", "mask.template");
    }
}

fn devices() -> Vec<Device> {
    // The second, independent implementation, as long as Burn has it.
    #[allow(deprecated)]
    let ndarray = Device::ndarray();
    vec![Device::flex(), ndarray]
}

/// A parameter whose initialisation would fail the test.
fn never<const D: usize>(
    shape: [usize; D],
    device: &Device,
    require_grad: bool,
) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        |_, _| panic!("a parameter that is loaded must not be initialised"),
        device.clone(),
        require_grad,
        shape.into(),
    )
}

fn tiny(device: &Device) -> Tiny {
    Tiny {
        embedding: never([3, 2], device, true),
        projection: never([3, 2], device, true),
        bias: never([2], device, false),
        key_pe: never([1, 2, 2], device, true),
        scale: never([1], device, true),
    }
}

fn published() -> NamedTensors {
    named(&[
        (
            "emb.weight",
            tensor(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[3, 2]),
        ),
        (
            "proj.weight",
            tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]),
        ),
        ("proj.bias", tensor(&[0.5, -0.5], &[2])),
        ("key_pe", tensor(&[1.0, 2.0, 3.0, 4.0], &[1, 2, 2])),
        ("scale", tensor(&[7.0], &[])),
    ])
}

fn load(model: Tiny, tensors: NamedTensors) -> pretrained::Result<Tiny> {
    Ok(load_weights(
        model,
        tensors,
        Path::new("tiny.pt"),
        &LoadOptions::default(),
    )?
    .0)
}

fn problems(error: Error) -> Vec<TensorProblem> {
    match error {
        Error::Tensors { problems, .. } => problems,
        other => panic!("expected tensor problems, got {other}"),
    }
}

fn values<const D: usize>(param: &Param<Tensor<D>>) -> Vec<f32> {
    param
        .val()
        .into_data()
        .try_into_vec::<f32>()
        .expect("f32 values")
}

#[test]
fn loads_by_name_transposes_and_keeps_what_a_parameter_is() {
    for plain in devices() {
        for device in [plain.clone(), plain.clone().autodiff()] {
            let model = tiny(&device);
            let ids = [model.embedding.id, model.projection.id, model.bias.id];
            let model = load(model, published()).expect("everything fits");

            assert_eq!(
                ids,
                [model.embedding.id, model.projection.id, model.bias.id]
            );
            assert_eq!(values(&model.projection), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
            assert_eq!(values(&model.embedding), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
            assert_eq!(values(&model.scale), [7.0]);
            assert_eq!(model.bias.val().device(), device);
            assert_eq!(model.bias.val().is_autodiff(), device.is_autodiff());
            assert_eq!(
                model.embedding.val().is_require_grad(),
                device.is_autodiff()
            );
            assert!(!model.bias.val().is_require_grad());

            let trained = model.train();
            assert!(trained.projection.val().is_require_grad());
            assert!(
                !trained.bias.val().is_require_grad(),
                "it was frozen before"
            );
        }
    }
}

#[test]
fn collects_what_it_loaded_with_buffers_and_aliases() {
    for plain in devices() {
        for device in [plain.clone(), plain.clone().autodiff()] {
            let model = load(tiny(&device), published()).expect("everything fits");
            let mut expected = published();
            expected.insert("scale".into(), tensor(&[7.0], &[1]));
            expected.insert("mask.template".into(), tensor(&[-1.0, 0.0], &[2]));
            expected.insert("span.mask.template".into(), tensor(&[-1.0, 0.0], &[2]));
            expected.insert("out.weight".into(), expected["emb.weight"].clone());

            let collected = collect_weights(&model);
            assert_eq!(collected, expected);
            let again = load(tiny(&device), collected).expect("its own weights fit");
            assert_eq!(collect_weights(&again), expected);
        }
    }
}

#[test]
fn every_float_type_becomes_f32() {
    let device = Device::flex();
    let halves = [0.5_f32, -2.0];
    let stored = [
        TensorData::new(halves.map(f16::from_f32).to_vec(), [2]),
        TensorData::new(halves.map(bf16::from_f32).to_vec(), [2]),
        TensorData::new(halves.map(f64::from).to_vec(), [2]),
    ];
    for data in stored {
        let mut tensors = published();
        tensors.insert("proj.bias".into(), data);
        let model = load(tiny(&device), tensors).expect("floats of any width fit");
        assert_eq!(model.bias.val().dtype(), DType::F32);
        assert_eq!(values(&model.bias), halves);
    }

    let mut tensors = published();
    tensors.insert("proj.bias".into(), TensorData::new(vec![1_i64, 2], [2]));
    let error = load(tiny(&device), tensors).expect_err("integers are no weights");
    assert_eq!(
        problems(error),
        [TensorProblem::Dtype {
            name: "proj.bias".into(),
            found: "I64".into()
        }]
    );
}

#[test]
fn all_problems_come_together_sorted_and_with_the_nearest_name() {
    let mut tensors = published();
    let bias = tensors.remove("proj.bias").expect("there");
    tensors.insert("proj.bais".into(), bias);
    tensors.insert("proj.weight".into(), tensor(&[0.0; 6], &[3, 2]));
    tensors.insert("cls.bias".into(), tensor(&[0.0], &[1]));
    tensors.insert("mask.template".into(), tensor(&[0.0; 3], &[3]));

    let error = load(tiny(&Device::flex()), tensors).expect_err("five do not fit");
    assert_eq!(
        error.to_string(),
        "tiny.pt: 5 tensors do not fit the model:\
         \n  `cls.bias`: found [1], not part of the model\
         \n  `mask.template`: expected [2], found [3]\
         \n  `proj.bais`: found [2], not part of the model; did you mean `proj.bias`?\
         \n  `proj.bias`: expected [2], not in the file; it holds `proj.bais`\
         \n  `proj.weight`: expected [2, 3], found [3, 2]"
    );
}

#[test]
fn a_long_list_of_problems_is_cut() {
    let mut tensors = published();
    for index in 0..30 {
        tensors.insert(format!("head.{index:02}"), tensor(&[0.0], &[1]));
    }
    let error = load(tiny(&Device::flex()), tensors).expect_err("30 are too many");
    let message = error.to_string();
    assert_eq!(message.lines().count(), 22, "{message}");
    assert!(
        message.contains("`head.19`") && !message.contains("`head.20`"),
        "{message}"
    );
    assert!(message.ends_with("\n  and 10 more"), "{message}");
    assert_eq!(problems(error).len(), 30);
}

#[test]
fn prefixes_are_removed_and_ignored_tensors_reported() {
    let device = Device::flex();
    let prefixed: NamedTensors = published()
        .into_iter()
        .map(|(name, data)| (format!("module.{name}"), data))
        .chain(named(&[
            ("module.cls.weight", tensor(&[0.0], &[1])),
            ("module.cls.bias", tensor(&[0.0], &[1])),
            ("position_ids", tensor(&[0.0], &[1])),
        ]))
        .collect();
    let options = LoadOptions {
        strip_prefix: Some("module.".into()),
        ignore: vec!["cls.*".into(), "position_ids".into()],
    };
    let (model, report) =
        load_weights(tiny(&device), prefixed.clone(), Path::new("x"), &options).expect("fits");
    assert_eq!(values(&model.bias), [0.5, -0.5]);
    assert_eq!(report.ignored, ["cls.bias", "cls.weight", "position_ids"]);

    let error = load(tiny(&device), prefixed.clone()).expect_err("the prefix is not removed");
    assert!(
        error
            .to_string()
            .contains("`key_pe`: expected [1, 2, 2], not in the file; it holds `module.key_pe`"),
        "{error}"
    );

    let mut twice = prefixed;
    twice.insert("key_pe".into(), tensor(&[0.0; 4], &[1, 2, 2]));
    let error =
        load_weights(tiny(&device), twice, Path::new("x"), &options).expect_err("ambiguous");
    assert_eq!(
        problems(error),
        [TensorProblem::Duplicate {
            name: "key_pe".into(),
            other: "module.key_pe".into()
        }]
    );
}

#[test]
fn aliases_may_be_absent_stand_in_and_must_agree() {
    let device = Device::flex();
    let mut renamed = published();
    let embedding = renamed.remove("emb.weight").expect("there");
    renamed.insert("out.weight".into(), embedding.clone());
    let model = load(tiny(&device), renamed).expect("the alias stands in");
    assert_eq!(model.embedding.val().into_data(), embedding);

    let mut differing = published();
    differing.insert(
        "out.weight".into(),
        tensor(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.25], &[3, 2]),
    );
    let error = load(tiny(&device), differing).expect_err("one value differs");
    assert_eq!(
        problems(error),
        [TensorProblem::AliasDiffers {
            name: "out.weight".into(),
            of: "emb.weight".into(),
            difference: 0.25
        }]
    );

    let mut nan = published();
    let values = [f32::NAN, 1.0, 2.0, 3.0, 4.0, 5.0];
    nan.insert("emb.weight".into(), tensor(&values, &[3, 2]));
    assert!(
        load(tiny(&device), nan.clone()).is_ok(),
        "NaN is a value like others"
    );
    nan.insert("out.weight".into(), tensor(&values, &[3, 2]));
    assert!(
        load(tiny(&device), nan.clone()).is_ok(),
        "NaN equals NaN here"
    );
    nan.insert(
        "out.weight".into(),
        tensor(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[3, 2]),
    );
    assert!(
        load(tiny(&device), nan).is_err(),
        "NaN differs from numbers"
    );
}

#[test]
fn gradients_have_upstream_names_and_layout() {
    for plain in devices() {
        let device = plain.autodiff();
        let model = load(tiny(&device), published()).expect("everything fits");
        let x = Tensor::<2>::from_data([[1.0, 2.0, 3.0]], &device);
        let c = Tensor::<2>::from_data([[10.0, 20.0]], &device);

        // loss = sum(c * (x W + b) + scale), so that dW = x^T c, and c^T x in upstream's layout.
        let y = x.matmul(model.projection.val()) + model.bias.val().unsqueeze();
        let loss = (y * c).sum() + model.scale.val().sum();
        let gradients = collect_gradients(&model, &loss.backward());

        let expected = named(&[
            (
                "proj.weight",
                tensor(&[10.0, 20.0, 30.0, 20.0, 40.0, 60.0], &[2, 3]),
            ),
            ("scale", tensor(&[1.0], &[1])),
        ]);
        assert_eq!(
            gradients, expected,
            "the bias is frozen, the rest did not take part"
        );
    }
}
