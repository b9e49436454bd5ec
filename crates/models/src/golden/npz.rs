//! Just enough of the NumPy formats for the golden files.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// One array, converted to f32.
#[derive(Clone, Debug)]
pub struct Npy {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Npy {
    pub fn dims<const D: usize>(&self) -> [usize; D] {
        self.shape.as_slice().try_into().unwrap()
    }

    pub fn scalar(&self) -> f32 {
        assert_eq!(self.values.len(), 1);
        self.values[0]
    }

    /// Values with axes in another order.
    pub fn permuted(&self, axes: &[usize]) -> Vec<f32> {
        let mut strides = vec![1; self.shape.len()];
        for axis in (0..self.shape.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * self.shape[axis + 1];
        }
        let mut index = vec![0; axes.len()];
        let mut out = Vec::with_capacity(self.values.len());
        for _ in 0..self.values.len() {
            let at: usize = index
                .iter()
                .zip(axes)
                .map(|(i, &axis)| i * strides[axis])
                .sum();
            out.push(self.values[at]);
            for position in (0..axes.len()).rev() {
                index[position] += 1;
                if index[position] < self.shape[axes[position]] {
                    break;
                }
                index[position] = 0;
            }
        }
        out
    }

    /// Record `b` of the first axis.
    pub fn record(&self, b: usize) -> Self {
        let per = self.values.len() / self.shape[0];
        let mut shape = self.shape.clone();
        shape[0] = 1;
        Self {
            shape,
            values: self.values[b * per..(b + 1) * per].to_vec(),
        }
    }
}

/// The arrays of one file by name.
pub struct Npz(pub BTreeMap<String, Npy>);

impl Npz {
    pub fn read(path: &Path) -> Self {
        let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
        let mut arrays = BTreeMap::new();
        for index in 0..archive.len() {
            let mut file = archive.by_index(index).unwrap();
            let name = file.name().trim_end_matches(".npy").to_owned();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            arrays.insert(name, parse(&bytes));
        }
        Self(arrays)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    #[track_caller]
    pub fn get(&self, name: &str) -> &Npy {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("array {name} is not in the file"))
    }
}

fn parse(bytes: &[u8]) -> Npy {
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let (length, start) = match bytes[6] {
        1 => (usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), 10),
        _ => (
            u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize,
            12,
        ),
    };
    let header = std::str::from_utf8(&bytes[start..start + length]).unwrap();
    let field = |name: &str| header.split_once(&format!("'{name}': ")).unwrap().1;
    assert!(field("fortran_order").starts_with("False"));
    let shape: Vec<usize> = field("shape")
        .split_once(')')
        .unwrap()
        .0
        .trim_start_matches('(')
        .split(',')
        .filter_map(|side| side.trim().parse().ok())
        .collect();
    let data = &bytes[start + length..];
    let values: Vec<f32> = match field("descr").get(1..4).unwrap() {
        "<f4" => data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect(),
        "<f8" => data
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()) as f32)
            .collect(),
        "<i4" => data
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()) as f32)
            .collect(),
        "<i8" => data
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32)
            .collect(),
        "|b1" => data.iter().map(|&b| f32::from(b)).collect(),
        other => panic!("array type {other}"),
    };
    assert_eq!(values.len(), shape.iter().product::<usize>());
    Npy { shape, values }
}
