//! Layout `npz`: arrays of images and labels in one numpy archive, by part or all in one.

use consilium_core::Digest;

use super::columns::{LabelCode, Target};
use super::npy::{Archive, Array, ArrayData};
use super::{Feature, Records};
use crate::examples::Targets;
use crate::manifest::NpzSource;
use crate::manifest_file::ManifestFile;
use crate::problem::Problem;
use crate::refusal::{Place, Problems};
use crate::split::Part;

/// Reads the archive.
pub(crate) fn read(
    file: &ManifestFile,
    source: &NpzSource,
    problems: &mut Problems,
) -> Option<Records> {
    let manifest = &file.manifest;
    let path = file.resolve(&source.file, problems)?;
    let mut archive = match Archive::open(&path) {
        Ok(archive) => archive,
        Err(problem) => {
            problems.push(problem, Place::file(&path));
            return None;
        }
    };
    let code = LabelCode::of(manifest);
    // A checked manifest has one, unless its records are unlabelled.
    let label = manifest.task.label.as_deref();
    let mut reading = Reading {
        records: Records {
            shape: Vec::new(),
            values: Vec::new(),
            features: Vec::new(),
            targets: match label {
                Some(_) => Targets::Classes {
                    label: Vec::new(),
                    names: code.names.clone(),
                },
                None => Targets::Unlabelled { records: 0 },
            },
            ids: Vec::new(),
            parts: source.parts.as_ref().map(|_| Vec::new()),
            places: Vec::new(),
        },
        code,
    };
    let patient = manifest.patient_id.as_deref();
    let parts: Vec<(Option<Part>, &str)> = match &source.parts {
        None => vec![(None, "")],
        Some(words) => vec![
            (Some(Part::Train), words.train.as_str()),
            (Some(Part::Validation), words.validation.as_str()),
            (Some(Part::Test), words.test.as_str()),
        ],
    };
    let mut complete = true;
    for (part, word) in parts {
        let name = |template: &str| template.replace("{part}", word);
        let names = Names {
            images: name(&source.images),
            labels: label.map(name),
            patients: patient.map(name),
        };
        complete &= reading.part(&mut archive, &names, part, problems).is_some();
    }
    let mut records = reading.records;
    let channels: &[&str] = match records.shape.first() {
        Some(3) => &["red", "green", "blue"],
        _ => &["grey"],
    };
    records.features = (channels.iter())
        .map(|name| Feature {
            name: (*name).to_owned(),
            source: (*name).to_owned(),
            unit: manifest.units.get(*name).cloned(),
            clip: None,
            missing_indicator: false,
        })
        .collect();
    complete.then_some(records)
}

struct Names {
    images: String,
    labels: Option<String>,
    patients: Option<String>,
}

struct Reading {
    records: Records,
    code: LabelCode,
}

impl Reading {
    /// Reads the arrays of one part.
    fn part(
        &mut self,
        archive: &mut Archive,
        names: &Names,
        part: Option<Part>,
        problems: &mut Problems,
    ) -> Option<()> {
        let place = Place::file(&archive.path);
        let mut array = |name: &str, problems: &mut Problems| match archive.array(name) {
            Ok(array) => Some(array),
            Err(problem) => {
                problems.push(problem, place.clone().column(name));
                None
            }
        };
        let images = array(&names.images, problems);
        let labels = names.labels.as_deref().map(|name| array(name, problems));
        let patients = names.patients.as_deref().map(|name| array(name, problems));
        let images = images?;
        let [labels, patients] = match (labels, patients) {
            (Some(None), _) | (_, Some(None)) => return None,
            (labels, patients) => [labels.flatten(), patients.flatten()],
        };

        let refuse = |problem: Problem, name: &str, problems: &mut Problems| {
            problems.push(problem, place.clone().column(name));
        };
        let Some((count, shape)) = image_shape(&images.shape) else {
            let expected = "(N, H, W), (N, H, W, 1) or (N, H, W, 3)".to_owned();
            let got = images.shape;
            refuse(
                Problem::ArrayShape { got, expected },
                &names.images,
                problems,
            );
            return None;
        };
        let ArrayData::Bytes(pixels) = &images.data else {
            let got = images.data.kind().to_owned();
            let expected = "uint8";
            refuse(
                Problem::ArrayType { got, expected },
                &names.images,
                problems,
            );
            return None;
        };
        if self.records.shape.is_empty() {
            self.records.shape = shape.clone();
        }
        if self.records.shape != shape {
            let expected = format!("images like the other part, {:?}", self.records.shape);
            let got = images.shape;
            refuse(
                Problem::ArrayShape { got, expected },
                &names.images,
                problems,
            );
            return None;
        }
        let one_each = |array: &Array| array.shape == [count] || array.shape == [count, 1];
        for (array, name) in [
            (labels.as_ref(), names.labels.as_ref()),
            (patients.as_ref(), names.patients.as_ref()),
        ] {
            if let (Some(array), Some(name)) = (array, name)
                && !one_each(array)
            {
                let got = array.shape.clone();
                let expected = format!("({count},) or ({count}, 1), one for each image");
                refuse(Problem::ArrayShape { got, expected }, name, problems);
                return None;
            }
        }
        let width: usize = shape.iter().product();
        for index in 0..count {
            let pixels = &pixels[index * width..(index + 1) * width];
            let target = match (&labels, &names.labels) {
                (Some(labels), Some(name)) => {
                    let text = labels.data.text(index).unwrap_or_default();
                    let Some(class) = self.code.class(&text) else {
                        let place = place.clone().column(format!("{name}[{index}]"));
                        problems.push(Problem::LabelUndeclared, place);
                        continue;
                    };
                    Target::Class(class)
                }
                _ => Target::Unknown,
            };
            let id = match &patients {
                Some(array) => array.data.text(index).unwrap_or_default(),
                // Equal images count as one record, wherever they stand.
                None => Digest::of(pixels).to_string(),
            };
            push_channels_first(pixels, shape[0], &mut self.records.values);
            self.records.targets.push(target);
            self.records.ids.push(id);
            if let (Some(parts), Some(part)) = (&mut self.records.parts, part) {
                parts.push(part);
            }
            let place = place.clone().column(format!("{}[{index}]", names.images));
            self.records.places.push(place);
        }
        Some(())
    }
}

/// Number of images and the shape `[C, H, W]` of one.
fn image_shape(shape: &[usize]) -> Option<(usize, Vec<usize>)> {
    match *shape {
        [n, h, w] if h > 0 && w > 0 => Some((n, vec![1, h, w])),
        [n, h, w, c @ (1 | 3)] if h > 0 && w > 0 => Some((n, vec![c, h, w])),
        _ => None,
    }
}

/// Appends pixels stored `[H, W, C]` as `[C, H, W]`.
fn push_channels_first(pixels: &[u8], channels: usize, values: &mut Vec<f32>) {
    for channel in 0..channels {
        let one = pixels.iter().skip(channel).step_by(channels);
        values.extend(one.map(|&pixel| f32::from(pixel)));
    }
}
