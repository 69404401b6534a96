//! The table of results that `train` and `eval` print.

use crate::format::number;
use crate::table::table;
use std::collections::BTreeMap;
use trainer::{Metrics, Reference, Split, Table};

/// The metrics of a split beside what the recipe expects, and below each the figures to compare it with.
pub fn results(
    split: Split,
    metrics: &Metrics,
    expected: &BTreeMap<String, f64>,
    references: &[Reference],
) -> Table {
    let mut rows = Vec::new();
    let any = metrics
        .iter()
        .any(|(name, _)| expected.contains_key(&key(split, name)));
    for (name, value) in metrics.iter() {
        let due = expected.get(&key(split, name));
        rows.push(vec![
            format!("{} {name}", split.name()),
            number(value),
            due.map_or(String::new(), |value| number(*value)),
        ]);
        // References are figures of the test split.
        let known = references
            .iter()
            .filter(|r| split == Split::Test && r.metric == name);
        rows.extend(known.map(|r| vec![format!("  {}", r.name), number(r.value), String::new()]));
    }
    let columns = ["result", "measured", "expected"];
    let width = if any { 3 } else { 2 };
    for row in &mut rows {
        row.truncate(width);
    }
    table("", &columns[..width], rows)
}

fn key(split: Split, metric: &str) -> String {
    format!("{}.{metric}", split.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_and_references_stand_beside_the_metric() {
        let metrics = Metrics::new().with("bpb", 2.9).with("loss", 2.0);
        let expected = BTreeMap::from([("test.bpb".to_owned(), 3.0)]);
        let reference = Reference {
            name: "order-0 entropy".to_owned(),
            metric: "bpb".to_owned(),
            value: 4.55,
        };
        let references = [reference];
        let table = results(Split::Test, &metrics, &expected, &references);
        assert_eq!(table.rows[0], ["test bpb", "2.9000", "3.0000"]);
        assert_eq!(table.rows[1], ["  order-0 entropy", "4.5500", ""]);
        assert_eq!(table.rows[2], ["test loss", "2.0000", ""]);
        let valid = results(Split::Valid, &metrics, &expected, &references);
        assert_eq!(valid.columns.len(), 2);
        assert_eq!(valid.rows.len(), 2);
    }
}
