//! Which columns of a table are targets, features, patient and part, and how their cells are understood.

use csv::StringRecord;

use super::Feature;
use super::table_file::{Cells, Number, TableFile};
use crate::examples::Targets;
use crate::manifest::{CohortManifest, FeatureBlock, TaskKind, same_cell};
use crate::problem::Problem;
use crate::refusal::{Place, Problems};
use crate::split::Part;

/// What stands in a file for each class.
pub(crate) struct LabelCode {
    values: Vec<Vec<String>>,
    pub(crate) names: Vec<String>,
}

impl LabelCode {
    /// The code that the task declares.
    pub(crate) fn of(manifest: &CohortManifest) -> Self {
        let task = &manifest.task;
        let values = match task.values.as_slice() {
            [] => task.classes.iter().map(|name| vec![name.clone()]).collect(),
            values => values.iter().map(|value| value.texts().to_vec()).collect(),
        };
        Self {
            values,
            names: task.classes.clone(),
        }
    }

    /// The class of a cell: equal text or equal number (`1` and `1.0`).
    pub(crate) fn class(&self, cell: &str) -> Option<u32> {
        let same = |texts: &Vec<String>| texts.iter().any(|text| same_cell(text, cell));
        self.values.iter().position(same).map(|class| class as u32)
    }
}

/// The target columns of a table.
pub(crate) enum TargetColumns {
    Label {
        column: usize,
        code: LabelCode,
    },
    Survival {
        time: usize,
        event: usize,
        event_value: f32,
    },
    None,
}

impl TargetColumns {
    /// Finds them in the header.
    pub(crate) fn find(
        manifest: &CohortManifest,
        table: &TableFile,
        problems: &mut Problems,
    ) -> Option<Self> {
        let task = &manifest.task;
        if task.kind == TaskKind::Unlabelled {
            return Some(Self::None);
        }
        if task.kind == TaskKind::Survival {
            let time = table.column(task.time.as_deref()?, problems);
            let event = table.column(task.event.as_deref()?, problems);
            return Some(Self::Survival {
                time: time?,
                event: event?,
                event_value: task.event_value.unwrap_or(1.0) as f32,
            });
        }
        Some(Self::Label {
            column: table.column(task.label.as_deref()?, problems)?,
            code: LabelCode::of(manifest),
        })
    }

    /// No records yet.
    pub(crate) fn empty(&self) -> Targets {
        match self {
            Self::Label { code, .. } => Targets::Classes {
                label: Vec::new(),
                names: code.names.clone(),
            },
            Self::Survival { .. } => Targets::Survival {
                time: Vec::new(),
                event: Vec::new(),
            },
            Self::None => Targets::Unlabelled { records: 0 },
        }
    }

    /// Reads the target of one row; problems are noted.
    pub(crate) fn target(
        &self,
        row: &StringRecord,
        cells: &Cells<'_>,
        problems: &mut Problems,
    ) -> Option<Target> {
        match self {
            Self::Label { column, code } => {
                let text = cells.text(row, *column, problems)?;
                let class = code.class(text);
                if class.is_none() {
                    problems.push(Problem::LabelUndeclared, cells.cell(*column));
                }
                class.map(Target::Class)
            }
            Self::Survival {
                time,
                event,
                event_value,
            } => {
                let at = cells.filled(row, *time, problems);
                let flag = cells.filled(row, *event, problems);
                if at.is_some_and(|at| at <= 0.0) {
                    problems.push(Problem::TimeNotPositive, cells.cell(*time));
                    return None;
                }
                let flag = flag?;
                if flag != 0.0 && flag != 1.0 {
                    problems.push(Problem::LabelUndeclared, cells.cell(*event));
                    return None;
                }
                Some(Target::Survival {
                    time: at?,
                    event: flag == *event_value,
                })
            }
            Self::None => Some(Target::Unknown),
        }
    }
}

/// The target of one record.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Target {
    Class(u32),
    Survival { time: f32, event: bool },
    Unknown,
}

impl Targets {
    /// Appends one target of the same kind.
    pub(crate) fn push(&mut self, target: Target) {
        match (self, target) {
            (Self::Classes { label, .. }, Target::Class(class)) => label.push(class),
            (Self::Survival { time, event }, Target::Survival { time: t, event: e }) => {
                time.push(t);
                event.push(e);
            }
            (Self::Unlabelled { records }, Target::Unknown) => *records += 1,
            // The readers make both from one `TargetColumns`.
            _ => unreachable!("targets of one cohort have one kind"),
        }
    }
}

/// One column of a table that becomes one or several features.
pub(crate) struct PlannedColumn {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) block: FeatureBlock,
}

/// Columns that hold the answer or the identity and must not become features.
fn reserved(manifest: &CohortManifest) -> Vec<&str> {
    let task = &manifest.task;
    let split = manifest.splits.fixed.as_ref();
    [
        task.label.as_deref(),
        task.time.as_deref(),
        task.event.as_deref(),
        manifest.patient_id.as_deref(),
        split.and_then(|fixed| fixed.column.as_deref()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Matches the feature blocks against one or several headers; returns the columns of each header.
///
/// `also_reserved` are ids of the layout. An explicit name must be in one of the headers.
pub(crate) fn plan(
    manifest: &CohortManifest,
    manifest_place: &Place,
    tables: &[&TableFile],
    also_reserved: &[&str],
    problems: &mut Problems,
) -> Vec<Vec<PlannedColumn>> {
    let mut planned: Vec<Vec<PlannedColumn>> = tables.iter().map(|_| Vec::new()).collect();
    let mut reserved = reserved(manifest);
    reserved.extend(also_reserved);
    let invalid = |message: String, problems: &mut Problems| {
        let place = manifest_place.clone().column("features.columns");
        problems.push(Problem::InvalidValue(message), place);
    };
    for block in &manifest.features {
        for pattern in &block.columns {
            let mut found = false;
            for (table, planned) in tables.iter().zip(&mut planned) {
                for (index, name) in table.header.iter().enumerate() {
                    if !matches(pattern, name) {
                        continue;
                    }
                    if reserved.contains(&name.as_str()) {
                        if !pattern.contains('*') {
                            let message =
                                format!("column `{name}` holds a target or an id, not a feature");
                            invalid(message, problems);
                            found = true;
                        }
                        continue;
                    }
                    found = true;
                    if planned.iter().any(|column| column.index == index) {
                        invalid(
                            format!("column `{name}` is in two blocks of features"),
                            problems,
                        );
                        continue;
                    }
                    planned.push(PlannedColumn {
                        index,
                        name: name.clone(),
                        block: block.clone(),
                    });
                }
            }
            if !found {
                if pattern.contains('*') {
                    invalid(format!("no column matches `{pattern}`"), problems);
                } else if let Some(table) = tables.last() {
                    table.column(pattern, problems);
                }
            }
        }
    }
    planned
}

pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

impl PlannedColumn {
    /// The features of this column as it stands.
    pub(crate) fn features(&self, manifest: &CohortManifest) -> Vec<Feature> {
        let feature = |name: String, clip| Feature {
            name,
            source: self.name.clone(),
            unit: manifest.units.get(&self.name).cloned(),
            clip,
            missing_indicator: self.block.missing_indicator,
        };
        if self.block.categories.is_empty() {
            return vec![feature(self.name.clone(), self.block.clip)];
        }
        (self.block.categories.iter())
            .map(|category| feature(format!("{}={category}", self.name), None))
            .collect()
    }

    /// Appends the cell's values, NaN where it is missing or wrong.
    pub(crate) fn push(
        &self,
        row: &StringRecord,
        cells: &Cells<'_>,
        problems: &mut Problems,
        values: &mut Vec<f32>,
    ) {
        let categories = &self.block.categories;
        let text = row.get(self.index).unwrap_or_default().trim();
        let missing = self.block.missing.iter().any(|word| same_cell(word, text));
        if missing {
            values.extend(vec![f32::NAN; categories.len().max(1)]);
            return;
        }
        if categories.is_empty() {
            values.push(match cells.number(row, self.index, problems) {
                Some(Number::Value(value)) => value,
                _ => f32::NAN,
            });
            return;
        }
        let known = categories
            .iter()
            .position(|category| same_cell(category, text));
        if known.is_none() && !text.is_empty() {
            problems.push(Problem::CategoryUndeclared, cells.cell(self.index));
        }
        values.extend((0..categories.len()).map(|at| match known {
            Some(known) => f32::from(u8::from(at == known)),
            None => f32::NAN,
        }));
    }
}

/// The part named in a cell.
pub(crate) fn part(
    row: &StringRecord,
    column: usize,
    cells: &Cells<'_>,
    problems: &mut Problems,
) -> Option<Part> {
    let part = Part::from_word(cells.text(row, column, problems)?);
    if part.is_none() {
        problems.push(Problem::PartUndeclared, cells.cell(column));
    }
    part
}

/// The column of a name that may be absent from the manifest: `Err` when it is named and missing.
pub(crate) fn optional(
    name: Option<&str>,
    table: &TableFile,
    problems: &mut Problems,
) -> Result<Option<usize>, ()> {
    match name {
        None => Ok(None),
        Some(name) => table.column(name, problems).map(Some).ok_or(()),
    }
}
