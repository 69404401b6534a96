//! Attention within clusters and blocks, member lists, relative and rotary embeddings: fast against obvious.

mod common;

use burn::prelude::*;
use common::{assert_close, devices, normal};
use core_attn::dropout::Dropout;
use core_attn::random::Key;
use core_attn::routed::rotary::{Pairs, angle, rotate, rotate_naive};
use core_attn::routed::*;
use proptest::prelude::*;

fn scores(values: Vec<f32>, dims: [usize; 4]) -> Scores {
    Scores::read(Tensor::from_data(
        TensorData::new(values, dims),
        &Device::flex(),
    ))
}

fn members(scores: &Scores, count: usize, order: MemberOrder) -> Vec<Vec<u32>> {
    let found = scores.top(count, order);
    let [_, _, _, size] = found.dims();
    let rows = found.positions().chunks_exact(size.max(1));
    rows.map(<[u32]>::to_vec).collect()
}

#[test]
fn ties_go_to_the_lowest_position() {
    let all = scores(vec![1.0, 3.0, 3.0, -0.0, 3.0, 0.0, f32::NAN], [1, 1, 7, 1]);
    assert_eq!(members(&all, 2, MemberOrder::Score), [[1, 2]]);
    assert_eq!(members(&all, 5, MemberOrder::Score), [[1, 2, 4, 0, 3]]);
    assert_eq!(members(&all, 5, MemberOrder::Position), [[0, 1, 2, 3, 4]]);
    assert_eq!(
        members(&all, 9, MemberOrder::Score),
        [[1, 2, 4, 0, 3, 5, 6]]
    );
    let nearest = scores(vec![2.0, 2.0, 1.0, 0.0, 5.0, 5.0], [1, 1, 2, 3]).nearest();
    assert_eq!(nearest, [0, 1]);
}

proptest! {
    #[test]
    fn selection_equals_sorting(
        values in prop::collection::vec(0u8..5, 2 * 3 * 17 * 2),
        count in 1usize..20,
        padded in 0usize..17,
    ) {
        let values = values.iter().map(|v| f32::from(*v)).collect();
        let all = scores(values, [2, 3, 17, 2]);
        for order in [MemberOrder::Score, MemberOrder::Position] {
            prop_assert_eq!(members(&all, count, order), top_members_naive(&all, count, order));
        }
        let padding: Vec<bool> = (0..34).map(|i| i % 17 >= padded && i % 3 == 0).collect();
        for padding in [None, Some(&padding[..])] {
            let prefix = all.prefix(count, padding);
            let pairs: Vec<_> = (0..prefix.pairs())
                .map(|i| {
                    let (head, cluster, query, keys) = prefix.pair(i);
                    (head, cluster, query, keys.to_vec())
                })
                .collect();
            prop_assert_eq!(pairs, prefix_members_naive(&all, count, padding));
        }
    }
}

#[test]
fn relative_scores_and_values() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        for (groups, q, k, width, reach, first) in [
            (3, 5, 5, 4, 2, 0),
            (2, 4, 12, 3, 9, 8),
            (1, 1, 6, 2, 3, 5),
            (2, 7, 3, 5, 1, 0),
        ] {
            let query = normal::<3>("q", [groups, q, width], &device).require_grad();
            let weights = normal::<3>("a", [groups, q, k], &device).require_grad();
            let table = normal::<2>("r", [2 * reach + 1, width], &device).require_grad();
            let run = |naive: bool| {
                let (s, v) = if naive {
                    (
                        shaw_scores_naive(query.clone(), table.clone(), k, first),
                        shaw_values_naive(weights.clone(), table.clone(), first),
                    )
                } else {
                    (
                        shaw_scores(query.clone(), table.clone(), k, first),
                        shaw_values(weights.clone(), table.clone(), first),
                    )
                };
                let loss = (s.clone() * normal("w", s.dims(), &device)).sum()
                    + (v.clone() * normal("x", v.dims(), &device)).sum();
                let grads = loss.backward();
                (
                    [s.inner(), v.inner()],
                    [
                        query.grad(&grads).unwrap(),
                        weights.grad(&grads).unwrap(),
                        table.grad(&grads).unwrap().unsqueeze(),
                    ],
                )
            };
            let ((fast, fast_grads), (naive, naive_grads)) = (run(false), run(true));
            let all = fast.into_iter().chain(fast_grads);
            for (f, n) in all.zip(naive.into_iter().chain(naive_grads)) {
                assert_close(backend, f, n, 2e-5, 1e-4);
            }
        }
    }
}

#[test]
fn rotations() {
    for (backend, device) in devices() {
        for pairs in [Pairs::Interleaved, Pairs::HalfSplit] {
            let x = normal::<4>("x", [2, 3, 5, 6], &device);
            let positions = [0, 3, 4, 1000, 8191];
            let fast = rotate(x.clone(), &positions, pairs).unwrap();
            let naive = rotate_naive(x.clone(), &positions, pairs).unwrap();
            assert_close(backend, fast.clone(), naive, 1e-6, 1e-5);
            let length = |t: Tensor<4>| t.square().sum_dim(3);
            assert_close(backend, length(fast), length(x.clone()), 1e-5, 1e-5);
            assert!(rotate(x.clone(), &[0], pairs).is_err());
            assert!(rotate(x.narrow(3, 0, 5), &positions, pairs).is_err());
        }
    }
    assert_eq!(angle(3, 0, 8), 3.0);
}

/// What a case of routed attention is made of.
#[derive(Debug, Clone, Copy)]
struct Case {
    dims: [usize; 4],
    keys: usize,
    clusters: usize,
    members: usize,
    causal: bool,
    shared: bool,
    prefix: bool,
    padded: bool,
    own: bool,
    add: bool,
    relative: bool,
    slots: usize,
}

const PLAIN: Case = Case {
    dims: [2, 3, 13, 5],
    keys: 13,
    clusters: 4,
    members: 4,
    causal: false,
    shared: true,
    prefix: false,
    padded: false,
    own: false,
    add: true,
    relative: false,
    slots: 0,
};

fn cases() -> Vec<Case> {
    vec![
        PLAIN,
        Case {
            causal: true,
            relative: true,
            ..PLAIN
        },
        Case {
            causal: true,
            relative: true,
            padded: true,
            ..PLAIN
        },
        Case {
            keys: 9,
            shared: false,
            padded: true,
            slots: 2,
            add: false,
            ..PLAIN
        },
        Case {
            causal: true,
            own: true,
            add: false,
            padded: true,
            ..PLAIN
        },
        Case {
            causal: true,
            shared: false,
            slots: 1,
            add: false,
            ..PLAIN
        },
        Case {
            members: 40,
            causal: true,
            own: true,
            add: false,
            ..PLAIN
        },
        Case {
            causal: true,
            prefix: true,
            relative: true,
            ..PLAIN
        },
        Case {
            causal: true,
            prefix: true,
            padded: true,
            own: true,
            add: false,
            slots: 1,
            ..PLAIN
        },
        Case {
            dims: [1, 1, 1, 1],
            keys: 1,
            clusters: 1,
            members: 1,
            causal: true,
            ..PLAIN
        },
    ]
}

#[test]
fn clusters_by_gathers_and_one_by_one() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        for case in cases() {
            let [b, h, n, d] = case.dims;
            let leaf =
                |name: &str, shape: [usize; 4]| normal::<4>(name, shape, &device).require_grad();
            let query = leaf("q", case.dims);
            let key = leaf("k", [b, h, case.keys, d]);
            let value = leaf("v", [b, h, case.keys, d]);
            let table = |name: &str| normal::<2>(name, [7, d], &device).require_grad();
            let (rk, rv) = (table("rk"), table("rv"));
            let m = case.slots.max(1);
            let (mk, mv) = (
                leaf("mk", [h, case.clusters, m, d]),
                leaf("mv", [h, case.clusters, m, d]),
            );
            let order = if case.own {
                MemberOrder::Score
            } else {
                MemberOrder::Position
            };
            let similarity = |name: &str, n: usize| {
                Scores::read(normal::<4>(name, [b, h, n, case.clusters], &device).inner())
            };
            let of_queries = similarity("sq", n);
            let of_keys = if case.shared {
                of_queries.clone()
            } else {
                similarity("sk", case.keys)
            };
            let query_members = of_queries.top(case.members, order);
            let key_members = of_keys.top(case.members, order);
            let padding =
                |n: usize| -> Vec<bool> { (0..b * h * n).map(|i| i % n >= n - 3).collect() };
            let (query_padding, key_padding) = (padding(n), padding(case.keys));
            let texts: Vec<bool> = (0..b * n).map(|i| i % n >= n - 3).collect();
            let prefix = of_queries.prefix(case.members, case.padded.then_some(&texts[..]));
            let run = |f: fn(RoutedAttention<'_>) -> core_attn::Result<Tensor<4>>| {
                let out = f(RoutedAttention {
                    query: query.clone(),
                    key: key.clone(),
                    value: value.clone(),
                    routing: match case.prefix {
                        true => Routing::Prefix(&prefix),
                        false => Routing::Clusters {
                            query: &query_members,
                            key: &key_members,
                        },
                    },
                    scale: 0.7,
                    causal: case.causal,
                    query_padding: (case.padded && !case.add).then_some(&query_padding[..]),
                    key_padding: case.padded.then_some(&key_padding[..]),
                    own: case.own.then_some(-5e4),
                    hide: if case.add {
                        Hide::Add(-1e9)
                    } else {
                        Hide::Replace(-1e30)
                    },
                    relative: case.relative.then(|| Shaw {
                        key: rk.clone(),
                        value: rv.clone(),
                    }),
                    memory: (case.slots > 0).then(|| Memory {
                        key: mk.clone(),
                        value: mv.clone(),
                    }),
                    epsilon: 0.01,
                    dropout: Dropout::off(),
                })
                .unwrap();
                let grads = (out.clone() * normal("w", case.dims, &device))
                    .sum()
                    .backward();
                let leaves = [&query, &key, &value, &mk, &mv].map(|t| t.grad(&grads));
                let tables = [&rk, &rv].map(|t| t.grad(&grads).map(Tensor::unsqueeze::<4>));
                let grads: Vec<_> = leaves.into_iter().chain(tables).collect();
                (out.inner(), grads)
            };
            let (fast, fast_grads) = run(routed_attention);
            let (naive, naive_grads) = run(routed_attention_naive);
            let name = format!("{backend} {case:?}");
            assert_close(&name, fast, naive, 5e-6, 2e-5);
            let mut compared = 0;
            for (f, n) in fast_grads.into_iter().zip(naive_grads) {
                assert_eq!(f.is_some(), n.is_some(), "{name}");
                if let (Some(f), Some(n)) = (f, n) {
                    assert_close(&name, f, n, 3e-5, 1e-4);
                    compared += 1;
                }
            }
            let expected = 3 + 2 * usize::from(case.slots > 0) + 2 * usize::from(case.relative);
            assert_eq!(compared, expected, "{name}");
        }
    }
}

#[test]
fn clusters_without_gradients_are_the_same_and_ignore_nan_in_padding() {
    for (backend, device) in devices() {
        for case in cases().into_iter().filter(|c| !c.prefix) {
            let [b, h, n, d] = case.dims;
            let order = if case.own {
                MemberOrder::Score
            } else {
                MemberOrder::Position
            };
            let make = |name: &str, n: usize| normal::<4>(name, [b, h, n, d], &device);
            let similarity = |name: &str, n: usize| {
                Scores::read(normal::<4>(name, [b, h, n, case.clusters], &device))
            };
            let of_queries = similarity("sq", n);
            let of_keys = match case.shared {
                true => of_queries.clone(),
                false => similarity("sk", case.keys),
            };
            let query = of_queries.top(case.members, order);
            let key = of_keys.top(case.members, order);
            let padding = |n: usize| -> Vec<bool> {
                (0..b * h * n)
                    .map(|i| case.padded && i % n >= n - 3)
                    .collect()
            };
            let (query_padding, key_padding) = (padding(n), padding(case.keys));
            let poisoned = |t: Tensor<4>, padding: &[bool]| {
                let [b, h, n, d] = t.dims();
                let padding = TensorData::new(padding.to_vec(), [b, h, n, 1]);
                let padding = Tensor::<4, Bool>::from_data(padding, &device);
                t.mask_fill(padding.expand([b, h, n, d]), f32::NAN)
            };
            let input = RoutedAttention {
                query: make("q", n),
                key: poisoned(make("k", case.keys), &key_padding),
                value: poisoned(make("v", case.keys), &key_padding),
                routing: Routing::Clusters {
                    query: &query,
                    key: &key,
                },
                scale: 0.7,
                causal: case.causal,
                query_padding: (case.padded && !case.add).then_some(&query_padding[..]),
                key_padding: case.padded.then_some(&key_padding[..]),
                own: case.own.then_some(-5e4),
                hide: if case.add {
                    Hide::Add(-1e9)
                } else {
                    Hide::Replace(-1e30)
                },
                relative: None,
                memory: None,
                epsilon: 0.01,
                dropout: Dropout::off(),
            };
            let name = format!("{backend} {case:?}");
            let naive = routed_attention_naive(input.clone()).unwrap();
            let fast = routed_attention(input.clone()).unwrap();
            assert_close(&name, fast.clone(), naive, 5e-6, 2e-5);
            // The same bits from any number of threads.
            let one = rayon::ThreadPoolBuilder::new()
                .num_threads(1)
                .build()
                .unwrap();
            let alone = one.install(|| routed_attention(input).unwrap());
            assert_eq!(fast.into_data(), alone.into_data(), "{name}");
        }
    }
}

#[test]
fn padding_may_hold_nan_and_positions_in_no_cluster_give_zero() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        let poison = |name: &str| {
            let t = normal::<4>(name, [1, 2, 6, 4], &device);
            t.slice_assign(
                s![.., .., 4.., ..],
                Tensor::full([1, 2, 2, 4], f32::NAN, &device),
            )
            .require_grad()
        };
        let (query, key, value) = (poison("q"), poison("k"), poison("v"));
        let padding: Vec<bool> = (0..12).map(|i| i % 6 >= 4).collect();
        // Position 0 is the least similar to everything; the two clusters of two hold four of the other five.
        let similar = [0.0, 1.0, 2.0, 3.0, f32::NAN, f32::NAN];
        let values = (0..2)
            .flat_map(|_| similar.iter().flat_map(|s| [*s, *s]))
            .collect();
        let all = scores(values, [1, 2, 6, 2]).top(2, MemberOrder::Position);
        for hide in [Hide::Add(-1e9), Hide::Replace(-1e30)] {
            for run in [routed_attention, routed_attention_naive] {
                let out = run(RoutedAttention {
                    query: query.clone(),
                    key: key.clone(),
                    value: value.clone(),
                    routing: Routing::Clusters {
                        query: &all,
                        key: &all,
                    },
                    scale: 1.0,
                    causal: true,
                    query_padding: Some(&padding),
                    key_padding: Some(&padding),
                    own: None,
                    hide,
                    relative: None,
                    memory: None,
                    epsilon: 0.01,
                    dropout: Dropout::off(),
                })
                .unwrap();
                let grads = out.clone().sum().backward();
                let leaves = [&query, &key, &value].map(|t| t.grad(&grads).unwrap());
                for t in leaves.into_iter().chain([out.clone().inner()]) {
                    let finite = t.into_data().iter::<f32>().all(f32::is_finite);
                    assert!(finite, "{backend}: NaN leaked");
                }
                let nobody = out.inner().narrow(2, 0, 2);
                assert_close(backend, nobody.clone(), nobody.zeros_like(), 0.0, 0.0);
            }
        }
    }
}

#[test]
fn blocks_and_every_query_alone() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        // length, window, back, forward, causal, exact, padded, own, relative
        type Case = (usize, usize, usize, usize, bool, bool, bool, bool, bool);
        let cases: [Case; 7] = [
            (12, 4, 1, 0, true, false, false, false, true),
            (11, 4, 2, 0, true, false, true, false, true),
            (3, 5, 1, 0, true, false, false, false, false),
            (13, 4, 1, 1, false, false, true, false, true),
            (9, 3, 1, 0, true, true, false, true, false),
            (10, 3, 1, 2, false, true, false, false, false),
            (1, 1, 0, 0, true, false, false, false, true),
        ];
        for case in cases {
            let (n, window, back, forward, causal, exact, padded, own, relative) = case;
            let leaf = |name: &str| {
                let t = normal::<4>(name, [2, 2, n, 3], &device);
                let bad = n.min(2);
                match padded && name != "q" {
                    true => t.slice_assign(
                        s![.., .., n - bad.., ..],
                        Tensor::full([2, 2, bad, 3], f32::NAN, &device),
                    ),
                    false => t,
                }
                .require_grad()
            };
            let (query, key, value) = (leaf("q"), leaf("k"), leaf("v"));
            let table = |name: &str| normal::<2>(name, [7, 3], &device).require_grad();
            let (rk, rv) = (table("rk"), table("rv"));
            let padding: Vec<bool> = (0..4 * n).map(|i| i % n >= n - n.min(2)).collect();
            for hide in [Hide::Add(-1e9), Hide::Replace(-1e30)] {
                let run = |f: fn(LocalAttention<'_>) -> core_attn::Result<Tensor<4>>| {
                    let out = f(LocalAttention {
                        query: query.clone(),
                        key: key.clone(),
                        value: value.clone(),
                        window,
                        back,
                        forward,
                        causal,
                        exact,
                        scale: 0.6,
                        padding: padded.then_some(&padding[..]),
                        outside: -1.0,
                        own: own.then_some(-5e4),
                        hide,
                        relative: relative.then(|| Shaw {
                            key: rk.clone(),
                            value: rv.clone(),
                        }),
                        dropout: Dropout::off(),
                    })
                    .unwrap();
                    let w = normal("w", [2, 2, n, 3], &device);
                    let grads = (out.clone() * w).sum().backward();
                    let leaves = [&query, &key, &value].map(|t| t.grad(&grads).unwrap());
                    let tables = [&rk, &rv].map(|t| t.grad(&grads).map(Tensor::unsqueeze::<4>));
                    let all: Vec<_> = leaves
                        .into_iter()
                        .chain(tables.into_iter().flatten())
                        .collect();
                    (out.inner(), all)
                };
                let ((fast, fast_grads), (naive, naive_grads)) =
                    (run(local_attention), run(local_attention_naive));
                let name = format!("{backend} {case:?} {hide:?}");
                assert_close(&name, fast, naive, 5e-6, 2e-5);
                assert_eq!(fast_grads.len(), 3 + 2 * usize::from(relative));
                for (f, n) in fast_grads.into_iter().zip(naive_grads) {
                    assert_close(&name, f, n, 3e-5, 1e-4);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let device = Device::flex();
    let x = normal::<4>("x", [1, 2, 6, 4], &device);
    let all = Scores::read(normal::<4>("s", [1, 2, 6, 2], &device)).top(3, MemberOrder::Position);
    let other = Scores::read(normal::<4>("s", [1, 2, 7, 2], &device)).top(3, MemberOrder::Position);
    let good = RoutedAttention {
        query: x.clone(),
        key: x.clone(),
        value: x.clone(),
        routing: Routing::Clusters {
            query: &all,
            key: &all,
        },
        scale: 1.0,
        causal: false,
        query_padding: None,
        key_padding: None,
        own: None,
        hide: Hide::Add(-1e9),
        relative: None,
        memory: None,
        epsilon: 0.01,
        dropout: Dropout::new(0.5, Key::new(1)).unwrap(),
    };
    assert!(routed_attention(good.clone()).is_ok());
    let bad = |bad: RoutedAttention<'_>, part: &str| {
        let message = routed_attention(bad).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    let value = x.clone().narrow(3, 0, 3);
    bad(
        RoutedAttention {
            value,
            ..good.clone()
        },
        "`value`",
    );
    let routing = Routing::Clusters {
        query: &all,
        key: &other,
    };
    bad(
        RoutedAttention {
            routing,
            ..good.clone()
        },
        "`routing`",
    );
    bad(
        RoutedAttention {
            key_padding: Some(&[true]),
            ..good.clone()
        },
        "`key_padding`",
    );
    let memory = Some(Memory {
        key: x.clone(),
        value: x.clone(),
    });
    bad(
        RoutedAttention {
            memory,
            ..good.clone()
        },
        "`memory.key`",
    );
    let local = LocalAttention {
        query: x.clone(),
        key: x.clone(),
        value: x,
        window: 0,
        back: 1,
        forward: 0,
        causal: true,
        exact: false,
        scale: 1.0,
        padding: None,
        outside: 0.0,
        own: None,
        hide: Hide::Add(-1e9),
        relative: None,
        dropout: Dropout::off(),
    };
    let message = local_attention(local).unwrap_err().to_string();
    assert!(message.contains("`window` is 0"), "{message}");
}

#[test]
fn a_text_read_on_equals_the_text_as_a_whole() {
    let device = Device::flex();
    let host = |t: Tensor<4>| -> Vec<f32> { t.into_data().iter::<f32>().collect() };
    // members, own score, added or replaced, relative, slots, blank values
    let cases = [
        (4, false, true, true, 0, true),
        (3, true, false, false, 2, false),
        (40, false, true, false, 0, false),
        (1, true, false, false, 0, false),
    ];
    let (h, n, d, clusters) = (3, 23, 5, 4);
    for (count, own, add, relative, slots, blank) in cases {
        let make = |name: &str, dims: [usize; 4]| normal::<4>(name, dims, &device);
        let (query, key) = (make("q", [1, h, n, d]), make("k", [1, h, n, d]));
        // Some values are exactly zero: keys that nobody sees.
        let hidden: Vec<bool> = (0..h * n).map(|i| blank && i % 7 == 2).collect();
        let zero =
            Tensor::<4, Bool>::from_data(TensorData::new(hidden.clone(), [1, h, n, 1]), &device);
        let value = make("v", [1, h, n, d]).mask_fill(zero.expand([1, h, n, d]), 0.0);
        let similarity = make("s", [1, h, n, clusters]);
        let table = |name: &str| normal::<2>(name, [7, d], &device);
        let memory = |name: &str| make(name, [h, clusters, slots.max(1), d]);
        let prefix = Scores::read(similarity.clone()).prefix(count, None);
        let hide = if add {
            Hide::Add(-1e9)
        } else {
            Hide::Replace(-1e30)
        };
        let tables = [table("rk"), table("rv")];
        let slot_rows = [memory("mk"), memory("mv")];
        let together = RoutedAttention {
            query: query.clone(),
            key: key.clone(),
            value: value.clone(),
            routing: Routing::Prefix(&prefix),
            scale: 0.7,
            causal: true,
            query_padding: None,
            key_padding: blank.then_some(&hidden[..]),
            own: own.then_some(-5e4),
            hide,
            relative: relative.then(|| Shaw {
                key: tables[0].clone(),
                value: tables[1].clone(),
            }),
            memory: (slots > 0).then(|| Memory {
                key: slot_rows[0].clone(),
                value: slot_rows[1].clone(),
            }),
            epsilon: 0.01,
            dropout: Dropout::off(),
        };
        let clustered = routed_attention_naive(together.clone()).unwrap();
        let fast = routed_attention(together).unwrap();
        assert_close("all at once", fast, clustered.clone(), 5e-6, 2e-5);
        let in_blocks = local_attention(LocalAttention {
            query: query.clone(),
            key: key.clone(),
            value: value.clone(),
            window: 4,
            back: 2,
            forward: 0,
            causal: true,
            exact: false,
            scale: 0.7,
            padding: blank.then_some(&hidden[..]),
            outside: 0.0,
            own: own.then_some(-5e4),
            hide,
            relative: relative.then(|| Shaw {
                key: tables[0].clone(),
                value: tables[1].clone(),
            }),
            dropout: Dropout::off(),
        })
        .unwrap();
        let by_token = |t: &Tensor<4>| host(t.clone().swap_dims(1, 2));
        let [q, k, v, s] = [&query, &key, &value, &similarity].map(by_token);
        let flat = |t: &Tensor<2>| -> Vec<f32> { t.clone().into_data().iter::<f32>().collect() };
        let tables = tables.each_ref().map(flat);
        let slot_rows = slot_rows.map(host);
        let rules = StreamRules {
            scale: 0.7,
            own: own.then_some(-5e4),
            hide,
            relative: relative.then_some((&tables[0][..], &tables[1][..])),
            memory: (slots > 0).then_some((&slot_rows[0][..], &slot_rows[1][..])),
            epsilon: 0.01,
        };
        let mut stream = ClusterStream::new([h, clusters, d], count).unwrap();
        let mut blocks = BlockStream::new([h, d], 4, 2).unwrap();
        let (mut one, mut two) = (vec![], vec![]);
        for t in 0..n {
            let row = t * h * d..(t + 1) * h * d;
            let here: Vec<bool> = (0..h).map(|head| hidden[head * n + t]).collect();
            let new = NewToken {
                query: &q[row.clone()],
                key: &k[row.clone()],
                value: &v[row],
                hidden: if blank { &here } else { &[] },
            };
            let similar = &s[t * h * clusters..(t + 1) * h * clusters];
            one.extend(stream.read(new, similar, &rules).unwrap());
            two.extend(blocks.read(new, &rules).unwrap());
            assert!(stream.members(1, 2).len() <= count);
        }
        assert_eq!(stream.len(), n);
        let back = |values: Vec<f32>| {
            let t = Tensor::<4>::from_data(TensorData::new(values, [1, n, h, d]), &device);
            t.swap_dims(1, 2)
        };
        assert_close("clusters", back(one), clustered, 5e-6, 2e-5);
        if !blank {
            // A row that sees nothing averages the missing blocks too where they are there as zeros.
            assert_close("blocks", back(two), in_blocks, 5e-6, 2e-5);
        }
    }
    let mut stream = ClusterStream::new([1, 2, 3], 2).unwrap();
    let rules = StreamRules {
        scale: 1.0,
        own: None,
        hide: Hide::Add(-1e9),
        relative: Some((&[0.0; 6], &[0.0; 6])),
        memory: None,
        epsilon: 0.0,
    };
    let row = [0.0; 3];
    let new = NewToken {
        query: &row,
        key: &row,
        value: &row,
        hidden: &[],
    };
    let message = |error: core_attn::Error| error.to_string();
    assert!(message(stream.read(new, &[0.0; 2], &rules).unwrap_err()).contains("`relative`"));
    let plain = StreamRules {
        relative: None,
        ..rules
    };
    assert!(message(stream.read(new, &[0.0], &plain).unwrap_err()).contains("`similarity`"));
    let short = NewToken { key: &[0.0], ..new };
    assert!(message(stream.read(short, &[0.0; 2], &plain).unwrap_err()).contains("`key`"));
    assert!(ClusterStream::new([1, 0, 3], 2).is_err() && BlockStream::new([1, 1], 0, 1).is_err());
}
