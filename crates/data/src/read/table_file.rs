//! A table with a header row: CSV or TSV, plain or gzip.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use csv::StringRecord;
use flate2::bufread::MultiGzDecoder;

use crate::manifest_file::unreadable;
use crate::problem::Problem;
use crate::refusal::{Place, Problems, nearest};

/// An open table. Rows are handed out one at a time.
pub(crate) struct TableFile {
    pub(crate) path: PathBuf,
    pub(crate) header: Vec<String>,
    reader: csv::Reader<Box<dyn Read>>,
}

/// What a numeric cell holds.
pub(crate) enum Number {
    Missing,
    Value(f32),
}

impl TableFile {
    /// Opens `path` and reads the header, or takes the given one for a file that has none. `.gz` is unpacked,
    /// `.tsv` is separated by tabs.
    pub(crate) fn open(path: &Path, header: &[String], problems: &mut Problems) -> Option<Self> {
        let file = match File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) => {
                problems.push(unreadable(&error), Place::file(path));
                return None;
            }
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stream: Box<dyn Read> = if name.ends_with(".gz") {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        let plain = name.trim_end_matches(".gz");
        let delimiter = if plain.ends_with(".tsv") || plain.ends_with(".txt") {
            b'\t'
        } else {
            b','
        };
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .has_headers(header.is_empty())
            .from_reader(stream);
        let header: Vec<String> = match reader.headers() {
            _ if !header.is_empty() => header.to_vec(),
            Ok(header) => header.iter().map(|name| name.trim().to_owned()).collect(),
            Err(error) => {
                problems.push(broken(&error), Place::file(path).line(1));
                return None;
            }
        };
        let mut sorted: Vec<&String> = header.iter().collect();
        sorted.sort();
        for pair in sorted.windows(2).filter(|pair| pair[0] == pair[1]) {
            let problem = Problem::ColumnRepeated(pair[0].clone());
            problems.push(problem, Place::file(path).line(1));
        }
        Some(Self {
            path: path.to_owned(),
            header,
            reader,
        })
    }

    /// The position of a column, which must be there.
    pub(crate) fn column(&self, name: &str, problems: &mut Problems) -> Option<usize> {
        let found = self.header.iter().position(|column| column == name);
        if found.is_none() {
            let problem = Problem::ColumnMissing {
                name: name.to_owned(),
                suggestion: nearest(name, self.header.iter().map(String::as_str)),
            };
            problems.push(problem, Place::file(&self.path).line(1));
        }
        found
    }

    /// Calls `each` with every row that has as many cells as the header, and its line.
    pub(crate) fn rows(
        &mut self,
        problems: &mut Problems,
        mut each: impl FnMut(&StringRecord, &Cells<'_>, &mut Problems),
    ) {
        let mut record = StringRecord::new();
        let expected = self.header.len();
        let mut last = 1;
        loop {
            match self.reader.read_record(&mut record) {
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => {
                    let line = error.position().map_or(last + 1, csv::Position::line);
                    problems.push(broken(&error), Place::file(&self.path).line(line));
                    // A damaged stream stays damaged; a row that is not UTF-8 may be the only one.
                    if !matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) {
                        return;
                    }
                    continue;
                }
            }
            let line = record.position().map_or(last + 1, csv::Position::line);
            last = line;
            if record.len() != expected {
                let got = record.len();
                problems.push(
                    Problem::RowLength { got, expected },
                    Place::file(&self.path).line(line),
                );
                continue;
            }
            let cells = Cells {
                path: &self.path,
                header: &self.header,
                line,
            };
            each(&record, &cells, problems);
        }
    }
}

/// The row that is being read, for placing problems.
pub(crate) struct Cells<'a> {
    path: &'a Path,
    header: &'a [String],
    pub(crate) line: u64,
}

impl Cells<'_> {
    /// The place of this row.
    pub(crate) fn place(&self) -> Place {
        Place::file(self.path).line(self.line)
    }

    /// The place of one cell.
    pub(crate) fn cell(&self, column: usize) -> Place {
        let name = self.header.get(column).map_or("", String::as_str);
        self.place().column(name)
    }

    /// A cell that must not be empty.
    pub(crate) fn text<'r>(
        &self,
        row: &'r StringRecord,
        column: usize,
        problems: &mut Problems,
    ) -> Option<&'r str> {
        let text = row.get(column).unwrap_or_default().trim();
        if text.is_empty() {
            problems.push(Problem::CellEmpty, self.cell(column));
            return None;
        }
        Some(text)
    }

    /// A numeric cell; empty is missing. Returns nothing, with the problem noted, for anything else.
    pub(crate) fn number(
        &self,
        row: &StringRecord,
        column: usize,
        problems: &mut Problems,
    ) -> Option<Number> {
        let text = row.get(column).unwrap_or_default().trim();
        if text.is_empty() {
            return Some(Number::Missing);
        }
        match text.parse::<f32>() {
            Ok(value) if value.is_finite() => Some(Number::Value(value)),
            Ok(_) => {
                problems.push(Problem::NumberNotFinite, self.cell(column));
                None
            }
            Err(_) => {
                problems.push(Problem::NumberIsText, self.cell(column));
                None
            }
        }
    }

    /// A numeric cell that must be filled.
    pub(crate) fn filled(
        &self,
        row: &StringRecord,
        column: usize,
        problems: &mut Problems,
    ) -> Option<f32> {
        match self.number(row, column, problems)? {
            Number::Value(value) => Some(value),
            Number::Missing => {
                problems.push(Problem::CellEmpty, self.cell(column));
                None
            }
        }
    }
}

fn broken(error: &csv::Error) -> Problem {
    match error.kind() {
        csv::ErrorKind::Io(error) => Problem::FileDamaged(error.to_string()),
        csv::ErrorKind::Utf8 { .. } => Problem::TableUnreadable("not UTF-8 text".to_owned()),
        _ => Problem::TableUnreadable(error.to_string()),
    }
}
