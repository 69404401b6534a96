//! Metrics of classification and regression tasks, and which of them a GLUE task reports.
//!
//! A correlation with something constant is not defined; it is `None` here and `null` in a file, never NaN in print.

use crate::scalars::Metrics;

/// Share of equal entries; 0 for no entries.
pub fn accuracy(predictions: &[usize], labels: &[usize]) -> f64 {
    let pairs = predictions.iter().zip(labels);
    let hits = pairs.filter(|(p, l)| p == l).count();
    ratio(hits as f64, labels.len() as f64)
}

/// `2TP / (2TP + FP + FN)` of class 1; 0 where that is 0/0.
pub fn f1(predictions: &[usize], labels: &[usize]) -> f64 {
    let [tp, _, fp, fn_] = counts(predictions, labels);
    ratio(2.0 * tp, 2.0 * tp + fp + fn_)
}

/// Matthews correlation of two classes, `(TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN))`; 0 where that is 0/0.
pub fn matthews(predictions: &[usize], labels: &[usize]) -> f64 {
    let [tp, tn, fp, fn_] = counts(predictions, labels);
    let scale = (tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_);
    ratio(tp * tn - fp * fn_, scale.sqrt())
}

/// Pearson's correlation; `None` where either side is constant or there are fewer than two entries.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let n = x.len().min(y.len());
    if n < 2 {
        return None;
    }
    let mean = |v: &[f64]| v[..n].iter().sum::<f64>() / n as f64;
    let (mx, my) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        let (a, b) = (a - mx, b - my);
        xy += a * b;
        xx += a * a;
        yy += b * b;
    }
    let r = xy / (xx.sqrt() * yy.sqrt());
    r.is_finite().then(|| r.clamp(-1.0, 1.0))
}

/// Spearman's correlation: Pearson's of the ranks, where ties share their mean rank.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

/// Ranks from 1; equal values share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = |&&i: &&usize| values[i] == values[order[start]];
        let count = order[start..].iter().take_while(same).count().max(1);
        let mean = start as f64 + (count as f64 + 1.0) / 2.0;
        for &i in &order[start..start + count] {
            ranks[i] = mean;
        }
        start += count;
    }
    ranks
}

/// The index of the largest value, the first of several; NaN never wins.
pub fn argmax(values: &[f32]) -> usize {
    let larger = |best: usize, i: usize| match values[i] > values[best] || values[best].is_nan() {
        true => i,
        false => best,
    };
    (0..values.len()).reduce(larger).unwrap_or(0)
}

/// What a GLUE task reports, by its name (`cola`, `sst-2`, …): `mcc`; `acc`; `f1`, `acc` and their mean `acc_and_f1`; or
/// `spearmanr`, `pearson` and their mean `corr`. `None` for a name that is no task's. Classes are whole numbers.
pub fn glue(task: &str, predictions: &[f64], labels: &[f64]) -> Option<Metrics> {
    let plain = task.to_lowercase().replace(['-', '_'], "");
    let classes = |v: &[f64]| v.iter().map(|x| *x as usize).collect::<Vec<_>>();
    let (p, l) = (classes(predictions), classes(labels));
    Some(match plain.as_str() {
        "cola" => Metrics::new().with("mcc", matthews(&p, &l)),
        "mrpc" | "qqp" => {
            let (acc, f1) = (accuracy(&p, &l), f1(&p, &l));
            Metrics::new()
                .with("f1", f1)
                .with("acc", acc)
                .with("acc_and_f1", (acc + f1) / 2.0)
        }
        "stsb" => {
            let or_null = |r: Option<f64>| r.unwrap_or(f64::NAN);
            let pearson = or_null(pearson(predictions, labels));
            let spearman = or_null(spearman(predictions, labels));
            Metrics::new()
                .with("spearmanr", spearman)
                .with("pearson", pearson)
                .with("corr", (pearson + spearman) / 2.0)
        }
        "sst2" | "mnli" | "mnlimm" | "qnli" | "rte" | "wnli" => {
            Metrics::new().with("acc", accuracy(&p, &l))
        }
        _ => return None,
    })
}

/// True and false positives and negatives of class 1: TP, TN, FP, FN.
fn counts(predictions: &[usize], labels: &[usize]) -> [f64; 4] {
    let mut counts = [0.0; 4];
    for (p, l) in predictions.iter().zip(labels) {
        let at = match (*p == 1, *l == 1) {
            (true, true) => 0,
            (false, false) => 1,
            (true, false) => 2,
            (false, true) => 3,
        };
        counts[at] += 1.0;
    }
    counts
}

fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undefined_values_are_said_to_be() {
        assert_eq!(pearson(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(spearman(&[2.0], &[3.0]), None);
        assert_eq!(matthews(&[1, 1], &[0, 1]), 0.0);
        assert_eq!(f1(&[0, 0], &[0, 0]), 0.0);
        let report = glue("STS-B", &[1.0, 1.0], &[0.5, 2.0]).unwrap();
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"spearmanr":null,"pearson":null,"corr":null}"#
        );
        assert!(glue("squad", &[], &[]).is_none());
    }

    #[test]
    fn ties_share_their_mean_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert!((spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 15.0]).unwrap() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_first_maximum_wins() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, 0.5]), 1);
    }
}
