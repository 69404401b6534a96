//! Figures: what an architecture adds to the report, as data.

use serde::{Deserialize, Serialize};

/// Something to show: a chart, a table or a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Figure {
    /// Curves over a common axis.
    Lines(Lines),
    /// A matrix as colours.
    Heatmap(Heatmap),
    /// One bar for each name.
    Bars(Bars),
    /// Rows of text under headings.
    Table(Table),
    /// A text, shown as it is.
    Text(Text),
}

impl Figure {
    /// The title of the figure.
    pub fn title(&self) -> &str {
        match self {
            Self::Lines(f) => &f.title,
            Self::Heatmap(f) => &f.title,
            Self::Bars(f) => &f.title,
            Self::Table(f) => &f.title,
            Self::Text(f) => &f.title,
        }
    }
}

/// An axis: what it measures and in which unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// What is measured ("span").
    pub label: String,
    /// The unit ("tokens"), if there is one.
    #[serde(default)]
    pub unit: Option<String>,
    /// Whether the axis is logarithmic; values that are not positive are then left out.
    #[serde(default)]
    pub log: bool,
}

impl Axis {
    /// An axis without a unit.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            unit: None,
            log: false,
        }
    }

    /// An axis with a unit.
    pub fn with_unit(label: impl Into<String>, unit: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            unit: Some(unit.into()),
            log: false,
        }
    }

    /// The same axis, logarithmic.
    pub fn logarithmic(mut self) -> Self {
        self.log = true;
        self
    }

    /// The label with its unit, "span (tokens)".
    pub fn caption(&self) -> String {
        match &self.unit {
            Some(unit) => format!("{} ({unit})", self.label),
            None => self.label.clone(),
        }
    }
}

/// Curves over a common axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lines {
    /// What the chart shows.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The curves.
    pub series: Vec<Series>,
}

/// One curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// Points in drawing order; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A matrix as colours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heatmap {
    /// What the chart shows.
    pub title: String,
    /// What the columns are.
    pub x: Axis,
    /// What the rows are.
    pub y: Axis,
    /// The name of each column.
    pub columns: Vec<String>,
    /// The name of each row, from the top.
    pub rows: Vec<String>,
    /// `values[row][column]`; values that are not finite stay empty.
    pub values: Vec<Vec<f64>>,
    /// What the colours measure.
    pub scale: Axis,
}

/// One bar for each name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bars {
    /// What the chart shows.
    pub title: String,
    /// What the bars are.
    pub x: Axis,
    /// What their height measures.
    pub y: Axis,
    /// Name and height of each.
    pub bars: Vec<(String, f64)>,
}

/// Rows of text under headings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What the table shows.
    pub title: String,
    /// The headings.
    pub columns: Vec<String>,
    /// The rows, each as long as the headings.
    pub rows: Vec<Vec<String>>,
}

/// A text, shown as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// What the text is.
    pub title: String,
    /// The text.
    pub text: String,
}
