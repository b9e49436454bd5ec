//! Arrays in a numpy archive (`.npz`: a zip of `.npy` files; numpy's format description, version 1 to 3), or in
//! a folder of `.npy` files, which is the same thing unpacked.
//!
//! The header is read here, in a few lines, because the existing crates bring a grammar for all Python
//! literals and panic on sizes that overflow. Nothing is allocated beyond what the file really holds.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use crate::manifest_file::unreadable;
use crate::problem::Problem;

/// An open archive, or a folder of arrays.
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    /// None for a folder.
    zip: Option<ZipArchive<BufReader<File>>>,
}

/// One array in C order.
#[derive(Debug)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: ArrayData,
}

/// The elements, in the type of the file or a wider one.
#[derive(Debug)]
pub(crate) enum ArrayData {
    Bytes(Vec<u8>),
    Integers(Vec<i64>),
    Floats(Vec<f64>),
}

/// Larger arrays are refused; the largest set in the data guide has a tenth of this.
const MOST_BYTES: u64 = 16 << 30;

impl Archive {
    /// Opens `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, Problem> {
        let zip = if path.is_dir() {
            None
        } else {
            let file = File::open(path).map_err(|error| unreadable(&error))?;
            Some(ZipArchive::new(BufReader::new(file)).map_err(|error| damaged(&error))?)
        };
        Ok(Self {
            path: path.to_owned(),
            zip,
        })
    }

    /// Reads the array `name` (without `.npy`).
    pub(crate) fn array(&mut self, name: &str) -> Result<Array, Problem> {
        let file = format!("{name}.npy");
        let present = self.present()?;
        if !present.contains(&file) {
            return Err(Problem::ArrayMissing {
                name: name.to_owned(),
                present: (present.iter())
                    .map(|name| name.trim_end_matches(".npy").to_owned())
                    .collect(),
            });
        }
        match &mut self.zip {
            Some(zip) => read_npy(zip.by_name(&file).map_err(|error| damaged(&error))?),
            None => {
                let stream =
                    File::open(self.path.join(file)).map_err(|error| unreadable(&error))?;
                read_npy(BufReader::new(stream))
            }
        }
    }

    /// Names of the files in it.
    fn present(&self) -> Result<Vec<String>, Problem> {
        if let Some(zip) = &self.zip {
            return Ok(zip.file_names().map(str::to_owned).collect());
        }
        let entries = std::fs::read_dir(&self.path).map_err(|error| unreadable(&error))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }
}

fn damaged(error: &ZipError) -> Problem {
    match error {
        ZipError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => Problem::FileMissing,
        other => Problem::FileDamaged(other.to_string()),
    }
}

/// Reads one `.npy` stream to its end, so that the checksum of the archive is compared too.
pub(crate) fn read_npy(mut stream: impl Read) -> Result<Array, Problem> {
    let cut = |error: std::io::Error| Problem::FileDamaged(error.to_string());
    let bad = |what: &str| Problem::FileDamaged(what.to_owned());
    let mut start = [0; 8];
    stream.read_exact(&mut start).map_err(cut)?;
    if &start[..6] != b"\x93NUMPY" {
        return Err(bad("not a numpy array"));
    }
    let length = if start[6] == 1 {
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).map_err(cut)?;
        u64::from(u16::from_le_bytes(bytes))
    } else {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).map_err(cut)?;
        u64::from(u32::from_le_bytes(bytes))
    };
    let mut header = Vec::new();
    (&mut stream)
        .take(length.min(1 << 16))
        .read_to_end(&mut header)
        .map_err(cut)?;
    if header.len() as u64 != length {
        return Err(bad("the array header is cut short"));
    }
    let header = parse_header(&String::from_utf8_lossy(&header))
        .ok_or(bad("the array header cannot be understood"))?;
    if header.fortran_order && header.shape.len() > 1 {
        return Err(Problem::ArrayType {
            got: format!("{} in Fortran order", header.descr),
            expected: "C order",
        });
    }
    let size = element_size(&header.descr).ok_or(Problem::ArrayType {
        got: header.descr.clone(),
        expected: "a little-endian number or bool",
    })?;
    let expected = (header.shape.iter())
        .try_fold(size as u64, |bytes, &side| bytes.checked_mul(side as u64))
        .filter(|&bytes| bytes <= MOST_BYTES)
        .ok_or(bad("the array header claims an impossible size"))?;
    let mut bytes = Vec::new();
    (&mut stream)
        .take(expected)
        .read_to_end(&mut bytes)
        .map_err(cut)?;
    let rest = std::io::copy(&mut stream, &mut std::io::sink()).map_err(cut)?;
    if bytes.len() as u64 != expected || rest > 0 {
        let message = format!(
            "the array has {} bytes, its header says {expected}",
            bytes.len() as u64 + rest
        );
        return Err(bad(&message));
    }
    Ok(Array {
        shape: header.shape,
        data: decode(&header.descr, bytes),
    })
}

struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Reads `{'descr': '|u1', 'fortran_order': False, 'shape': (4708, 28, 28), }`, keys in any order.
fn parse_header(text: &str) -> Option<Header> {
    let after = |key: &str| {
        let (_, rest) = text.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let descr = after("descr")?.strip_prefix('\'')?.split_once('\'')?.0;
    let order = after("fortran_order")?;
    let shape = after("shape")?.strip_prefix('(')?.split_once(')')?.0;
    let sides = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
    Some(Header {
        descr: descr.to_owned(),
        fortran_order: order.starts_with("True"),
        shape: sides
            .map(|side| side.parse().ok())
            .collect::<Option<Vec<usize>>>()?,
    })
}

fn element_size(descr: &str) -> Option<usize> {
    Some(match descr {
        "|u1" | "|b1" | "|i1" => 1,
        "<u2" | "<i2" => 2,
        "<u4" | "<i4" | "<f4" => 4,
        "<u8" | "<i8" | "<f8" => 8,
        _ => return None,
    })
}

fn decode(descr: &str, bytes: Vec<u8>) -> ArrayData {
    fn each<const N: usize, T>(bytes: &[u8], one: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|b| one(*b)).collect()
    }
    match descr {
        "|u1" | "|b1" => ArrayData::Bytes(bytes),
        "|i1" => ArrayData::Integers(each(&bytes, |[b]| i64::from(b as i8))),
        "<u2" => ArrayData::Integers(each(&bytes, |b| i64::from(u16::from_le_bytes(b)))),
        "<i2" => ArrayData::Integers(each(&bytes, |b| i64::from(i16::from_le_bytes(b)))),
        "<u4" => ArrayData::Integers(each(&bytes, |b| i64::from(u32::from_le_bytes(b)))),
        "<i4" => ArrayData::Integers(each(&bytes, |b| i64::from(i32::from_le_bytes(b)))),
        // Values above the middle of u64 become negative, which no label or id uses.
        "<u8" => ArrayData::Integers(each(&bytes, |b| u64::from_le_bytes(b) as i64)),
        "<i8" => ArrayData::Integers(each(&bytes, i64::from_le_bytes)),
        "<f4" => ArrayData::Floats(each(&bytes, |b| f64::from(f32::from_le_bytes(b)))),
        _ => ArrayData::Floats(each(&bytes, f64::from_le_bytes)),
    }
}

impl ArrayData {
    /// The element as text, the way a table would hold it.
    pub(crate) fn text(&self, index: usize) -> Option<String> {
        match self {
            Self::Bytes(v) => v.get(index).map(ToString::to_string),
            Self::Integers(v) => v.get(index).map(ToString::to_string),
            Self::Floats(v) => v.get(index).map(ToString::to_string),
        }
    }

    /// Numpy's word for the kind of elements.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Bytes(_) => "uint8",
            Self::Integers(_) => "integer",
            Self::Floats(_) => "float",
        }
    }
}

/// The `.npy` form of an array of `u8` or `u32`, as numpy writes it (version 1.0, C order).
pub(crate) fn npy_bytes(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let sides: Vec<String> = shape.iter().map(|side| format!("{side},")).collect();
    let sides = sides.join(" ");
    let sides = if shape.len() > 1 {
        sides.trim_end_matches(',')
    } else {
        &sides
    };
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sides}), }}");
    // Magic, version and length are 10 bytes; the data begin at a multiple of 64.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(header.len() as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_survives_writing_and_reading() {
        let bytes = npy_bytes("|u1", &[2, 3], &[1, 2, 3, 4, 5, 6]);
        let array = read_npy(bytes.as_slice()).unwrap();
        assert_eq!(array.shape, [2, 3]);
        assert_eq!(array.data.text(4).unwrap(), "5");
    }

    #[test]
    fn every_cut_and_every_impossible_size_is_an_error() {
        let bytes = npy_bytes("<u4", &[4], &[0; 16]);
        for end in 0..bytes.len() {
            let error = read_npy(&bytes[..end]).unwrap_err();
            assert_eq!(error.code(), "file_damaged", "cut at {end}");
        }
        let huge = npy_bytes("<u4", &[usize::MAX, usize::MAX], &[]);
        assert_eq!(
            read_npy(huge.as_slice()).unwrap_err().code(),
            "file_damaged"
        );
        let object = npy_bytes("|O", &[1], &[0; 8]);
        assert_eq!(
            read_npy(object.as_slice()).unwrap_err().code(),
            "array_type"
        );
    }
}
