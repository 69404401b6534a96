//! The report of a run: one HTML file without scripts that needs nothing beside it.

use crate::figure::{Axis, Lines, Series, Table};
use crate::log::Kind;
use crate::plot::{self, number};
use crate::run::{REPORT, RunReader};
use crate::{Error, Figure, Result, Split};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes `report.html` and `plots/*.svg` of a run folder from the files in it, also while the run is not finished.
///
/// # Errors
/// When it is no run folder, or a file cannot be read or written.
pub fn write(dir: &Path) -> Result<PathBuf> {
    let run = RunReader::open(dir)?;
    let plots = dir.join("plots");
    fs::create_dir_all(&plots).map_err(Error::io("create the folder", &plots))?;
    let mut html = Html::default();
    head(&mut html, &run);
    results(&mut html, &run);
    let curves = curves(&run);
    if !curves.is_empty() {
        html.heading("Curves");
        for lines in curves {
            figure(&mut html, &Figure::Lines(lines), &plots)?;
        }
    }
    if !run.figures.is_empty() {
        html.heading("Figures");
        for each in &run.figures {
            figure(&mut html, each, &plots)?;
        }
    }
    if let Some(results) = &run.results {
        for (i, sample) in results.samples.iter().enumerate() {
            if i == 0 {
                html.heading("Samples");
            }
            html.text_block(&sample.title, &sample.text);
        }
    }
    if let Some(environment) = &run.environment {
        html.heading("Environment");
        let facts = environment.facts().into_iter();
        html.facts(facts.map(|(name, value)| (name.to_owned(), value)));
    }
    html.heading("Recipe");
    let recipe = serde_json::to_string_pretty(&run.recipe.resolved()).map_err(Error::other)?;
    html.block(&recipe);
    let path = dir.join(REPORT);
    let title = format!("{} · {}", run.recipe.architecture, run.name());
    pretrained::write_atomic(&path, html.page(&title).as_bytes())?;
    Ok(path)
}

/// A page of figures in one HTML file without scripts that needs nothing beside it; `text` stands below the title.
pub fn page(title: &str, text: &str, figures: &[Figure]) -> String {
    let mut html = Html::default();
    html.push(&format!("<h1>{}</h1>\n", escaped(title)));
    html.push(&format!("<p>{}</p>\n", escaped(text)));
    for figure in figures {
        match figure {
            Figure::Table(table) => {
                html.heading(&table.title);
                html.table(table);
            }
            Figure::Text(text) => html.text_block(&text.title, &text.text),
            chart => match plot::svg(chart) {
                Ok(Some(svg)) => html.push(&format!("<figure>{svg}</figure>\n")),
                Ok(None) => {}
                // One chart that cannot be drawn does not cost the page.
                Err(error) => html.push(&format!("<p>{}</p>\n", escaped(&error.to_string()))),
            },
        }
    }
    html.page(title)
}

fn head(html: &mut Html, run: &RunReader) {
    html.push(&format!(
        "<h1>{} <small>{}</small></h1>\n",
        escaped(&run.recipe.architecture),
        escaped(&run.name())
    ));
    if let Some(about) = &run.recipe.about {
        html.push(&format!("<p>{}</p>\n", escaped(about)));
    }
}

fn results(html: &mut Html, run: &RunReader) {
    html.heading("Result");
    let Some(results) = &run.results else {
        let step = run.records.last().map_or(0, |record| record.step);
        html.push(&format!(
            "<p>The run has not finished; its last record is of step {step}.</p>\n"
        ));
        return;
    };
    let mut rows = Vec::new();
    for (name, value) in results.test.iter() {
        let expected = run.recipe.expected.get(&format!("test.{name}"));
        rows.push(vec![
            format!("{name} (test)"),
            decimal(value),
            expected.map_or_else(String::new, |value| decimal(*value)),
        ]);
        let references = results.references.iter().filter(|r| r.metric == name);
        rows.extend(references.map(|r| vec![r.name.clone(), decimal(r.value), String::new()]));
    }
    html.table(&Table {
        title: String::new(),
        columns: ["", "measured", "expected"].map(str::to_owned).to_vec(),
        rows,
    });
    let mut facts = vec![
        ("steps".to_owned(), results.steps.to_string()),
        ("time".to_owned(), format!("{} s", number(results.seconds))),
        (
            "time per step".to_owned(),
            format!("{} ms", number(results.ms_per_step)),
        ),
    ];
    if let Some((amount, unit)) = &results.work_per_second {
        facts.push((format!("{unit} per second"), number(*amount)));
    }
    if let Some(parameters) = results.parameters {
        facts.push(("parameters".to_owned(), parameters.to_string()));
    }
    let peak = results.peak_memory.map_or("n/a".to_owned(), |bytes| {
        format!("{:.0} MiB", bytes as f64 / (1 << 20) as f64)
    });
    facts.push(("peak memory".to_owned(), peak));
    for stage in &results.stages {
        let mut text = format!("{} steps", stage.steps);
        if stage.stopped_early {
            text.push_str(", stopped early");
        }
        if let Some(best) = &stage.best {
            let _ = write!(
                text,
                "; best {} {} at step {}",
                best.metric,
                decimal(best.value),
                best.step
            );
        }
        facts.push((format!("stage {}", stage.name), text));
    }
    facts.extend(results.summary.iter().cloned());
    html.facts(facts.into_iter());
}

/// One chart for each name that was recorded, with the splits it was recorded on.
pub(crate) fn curves(run: &RunReader) -> Vec<Lines> {
    let mut names: Vec<&str> = Vec::new();
    let measured = run.records.iter().filter(|r| r.kind != Kind::Time);
    for name in measured
        .clone()
        .flat_map(|r| r.values.iter().map(|(name, _)| name))
    {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
        .into_iter()
        .filter_map(|name| {
            let curve = |kind, split: Split| Series {
                name: split.name().to_owned(),
                points: run.series(kind, Some(split), name),
            };
            let series = vec![
                curve(Kind::Train, Split::Train),
                curve(Kind::Evaluation, Split::Train),
                curve(Kind::Evaluation, Split::Valid),
            ];
            let series: Vec<Series> = series
                .into_iter()
                .filter(|s| !s.points.is_empty())
                .collect();
            (!series.is_empty()).then(|| Lines {
                title: match series.as_slice() {
                    [one] => format!("{name} ({})", one.name),
                    _ => name.to_owned(),
                },
                x: Axis::new("step"),
                y: Axis::new(name),
                series,
            })
        })
        .collect()
}

/// Adds a figure to the page, and to the folder of plots if it is a chart.
fn figure(html: &mut Html, figure: &Figure, plots: &Path) -> Result<()> {
    match figure {
        Figure::Table(table) => {
            html.push(&format!("<h3>{}</h3>\n", escaped(&table.title)));
            html.table(table);
        }
        Figure::Text(text) => html.text_block(&text.title, &text.text),
        chart => match plot::svg(chart) {
            Ok(Some(svg)) => {
                let file = plots.join(format!("{}.svg", slug(chart.title())));
                pretrained::write_atomic(&file, svg.as_bytes())?;
                html.push(&format!("<figure>{svg}</figure>\n"));
            }
            Ok(None) => {}
            // One chart that cannot be drawn does not cost the report.
            Err(error) => html.push(&format!("<p>{}</p>\n", escaped(&error.to_string()))),
        },
    }
    Ok(())
}

fn decimal(value: f64) -> String {
    match value.is_finite() && (1e-3..1e5).contains(&value.abs()) {
        true => format!("{value:.4}"),
        false => number(value),
    }
}

/// A title as a file name.
fn slug(title: &str) -> String {
    let words: Vec<String> = title
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    match words.is_empty() {
        true => "figure".to_owned(),
        false => words.join("-"),
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            // Browsers show other control characters as nothing or as boxes.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[derive(Default)]
struct Html(String);

impl Html {
    fn push(&mut self, html: &str) {
        self.0.push_str(html);
    }

    fn heading(&mut self, text: &str) {
        self.push(&format!("<h2>{}</h2>\n", escaped(text)));
    }

    fn block(&mut self, text: &str) {
        self.push(&format!("<pre>{}</pre>\n", escaped(text)));
    }

    fn text_block(&mut self, title: &str, text: &str) {
        self.push(&format!("<h3>{}</h3>\n", escaped(title)));
        self.block(text);
    }

    fn facts(&mut self, facts: impl Iterator<Item = (String, String)>) {
        self.push("<dl>\n");
        for (name, value) in facts {
            self.push(&format!(
                "<dt>{}</dt><dd>{}</dd>\n",
                escaped(&name),
                escaped(&value)
            ));
        }
        self.push("</dl>\n");
    }

    fn table(&mut self, table: &Table) {
        self.push("<div class=\"wide\"><table>\n<tr>");
        for column in &table.columns {
            self.push(&format!("<th>{}</th>", escaped(column)));
        }
        self.push("</tr>\n");
        for row in &table.rows {
            self.push("<tr>");
            for cell in row {
                self.push(&format!("<td>{}</td>", escaped(cell)));
            }
            self.push("</tr>\n");
        }
        self.push("</table></div>\n");
    }

    fn page(&self, title: &str) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
            escaped(title),
            self.0
        )
    }
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --soft: #f2f3f5; --line: #d5d8dc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181b; --soft: #22262a; --line: #3b4046; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 56rem; margin: 0 auto; padding: 1rem; }
h1 { line-height: 1.2; } h1 small { font-weight: normal; font-size: 60%; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
figure { margin: 1rem 0; padding: .25rem; background: #fff; border: 1px solid var(--line); border-radius: 6px; overflow-x: auto; }
figure svg { display: block; max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .25rem 1rem; margin: 1rem 0; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .75rem; border-radius: 6px; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 14px; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup_and_titles_become_file_names() {
        assert_eq!(
            escaped("<b a=\"x\">&\u{1}"),
            "&lt;b a=&quot;x&quot;&gt;&amp;\u{fffd}"
        );
        assert_eq!(
            slug("Learned span (tokens) / head"),
            "learned-span-tokens-head"
        );
        assert_eq!(slug("…"), "figure");
    }

    #[test]
    fn results_are_given_with_four_decimals() {
        assert_eq!(decimal(2.94561), "2.9456");
        assert_eq!(decimal(3e-7), "3e-7");
        assert_eq!(decimal(f64::NAN), "n/a");
    }
}
