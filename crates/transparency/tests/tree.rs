//! The tree against the published vectors of Certificate Transparency, and against the recursion of the text.

use consilium_core::Digest;
use consilium_transparency::{
    Frontier, Tree, empty_root, leaf_hash, node_hash, verify_consistency, verify_inclusion,
};
use proptest::prelude::*;

/// The entries of the reference tree in `certificate-transparency-go` (`testonly/reference_merkle_tree.go`).
const ENTRIES: [&[u8]; 8] = [
    &[],
    &[0x00],
    &[0x10],
    &[0x20, 0x21],
    &[0x30, 0x31],
    &[0x40, 0x41, 0x42, 0x43],
    &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
    &[
        0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e,
        0x6f,
    ],
];

/// Its roots with 1 to 8 entries.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn digests(texts: &[&str]) -> Vec<Digest> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn reference(size: usize) -> Tree {
    ENTRIES[..size]
        .iter()
        .map(|entry| leaf_hash(entry))
        .collect()
}

#[test]
fn roots_are_those_of_the_published_tree() {
    assert_eq!(
        empty_root().to_string(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root(), empty_root());
    assert_eq!(Tree::default().root(), empty_root());
    for (size, root) in (1..).zip(digests(&ROOTS)) {
        frontier.push(leaf_hash(ENTRIES[size - 1]));
        assert_eq!(frontier.root(), root, "{size} entries");
        assert_eq!(reference(size).root(), root, "{size} entries");
        assert_eq!(reference(8).root_at(size as u64), Some(root));
    }
}

#[test]
fn inclusion_proofs_are_the_published_ones() {
    for (index, size, path) in [
        (0, 1, &[][..]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            3,
            &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
        ),
        (
            1,
            5,
            &[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ] {
        let path = digests(path);
        let tree = reference(8);
        assert_eq!(tree.inclusion(index, size), Some(path.clone()));
        let (leaf, root) = (tree.leaf(index).unwrap(), tree.root_at(size).unwrap());
        verify_inclusion(leaf, index, size, &path, root).unwrap();
    }
}

#[test]
fn consistency_proofs_are_the_published_ones() {
    for (before, size, path) in [
        (1, 1, &[][..]),
        (
            1,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ] {
        let path = digests(path);
        let tree = reference(8);
        assert_eq!(tree.consistency(before, size), Some(path.clone()));
        let root = |size| tree.root_at(size).unwrap();
        verify_consistency((before, root(before)), (size, root(size)), &path).unwrap();
    }
}

/// MTH(D[n]) as RFC 6962, section 2.1 writes it.
fn naive(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (mut k, n) = (1, leaves.len());
            while 2 * k < n {
                k *= 2;
            }
            node_hash(&naive(&leaves[..k]), &naive(&leaves[k..]))
        }
    }
}

fn leaves(count: usize) -> Vec<Digest> {
    (0..count as u64)
        .map(|index| leaf_hash(&index.to_be_bytes()))
        .collect()
}

proptest! {
    #[test]
    fn every_root_is_that_of_the_recursion(count in 0_usize..200) {
        let leaves = leaves(count);
        let tree: Tree = leaves.iter().copied().collect();
        let mut frontier = Frontier::default();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        prop_assert_eq!(tree.root(), naive(&leaves));
        prop_assert_eq!(frontier.root(), naive(&leaves));
        prop_assert_eq!((tree.len(), frontier.len()), (count as u64, count as u64));
    }

    #[test]
    fn every_proof_holds_and_no_changed_one_does(
        count in 1_usize..130,
        place in any::<(prop::sample::Index, prop::sample::Index)>(),
        damage in any::<prop::sample::Index>(),
    ) {
        let leaves = leaves(count);
        let tree: Tree = leaves.iter().copied().collect();
        let size = place.0.index(count) as u64 + 1;
        let root = tree.root_at(size).unwrap();
        prop_assert_eq!(root, naive(&leaves[..size as usize]));

        let index = place.1.index(size as usize) as u64;
        let leaf = leaves[index as usize];
        let path = tree.inclusion(index, size).unwrap();
        prop_assert!(verify_inclusion(leaf, index, size, &path, root).is_ok());
        prop_assert!(verify_inclusion(leaf_hash(b"other"), index, size, &path, root).is_err());
        prop_assert!(verify_inclusion(leaf, index, size, &path, leaf_hash(b"other")).is_err());
        prop_assert!(verify_inclusion(leaf, size, size, &path, root).is_err());
        let mut longer = path.clone();
        longer.push(leaf);
        prop_assert!(verify_inclusion(leaf, index, size, &longer, root).is_err());
        if !path.is_empty() {
            prop_assert!(verify_inclusion(leaf, index, size, &path[1..], root).is_err());
            let mut damaged = path.clone();
            damaged[damage.index(path.len())] = leaf_hash(b"other");
            prop_assert!(verify_inclusion(leaf, index, size, &damaged, root).is_err());
        }

        let before = place.1.index(size as usize + 1) as u64;
        let former = tree.root_at(before).unwrap();
        let path = tree.consistency(before, size).unwrap();
        prop_assert!(verify_consistency((before, former), (size, root), &path).is_ok());
        prop_assert!(verify_consistency((before, leaf_hash(b"other")), (size, root), &path).is_err());
        let forward = before < size;
        prop_assert!(!forward || before == 0
            || verify_consistency((before, former), (size, leaf_hash(b"other")), &path).is_err());
        prop_assert!(!forward || verify_consistency((size, root), (before, former), &path).is_err());
        if !path.is_empty() {
            prop_assert!(verify_consistency((before, former), (size, root), &path[1..]).is_err());
            let mut damaged = path.clone();
            damaged[damage.index(path.len())] = leaf_hash(b"other");
            prop_assert!(verify_consistency((before, former), (size, root), &damaged).is_err());
        }
    }
}

#[test]
fn what_is_not_there_has_no_proof() {
    let tree = reference(5);
    assert_eq!(tree.inclusion(5, 5), None);
    assert_eq!(tree.inclusion(0, 6), None);
    assert_eq!(tree.consistency(4, 6), None);
    assert_eq!(tree.consistency(4, 3), None);
    assert_eq!(tree.root_at(6), None);
    assert_eq!(tree.leaf(5), None);
}

#[test]
fn an_entry_that_looks_like_a_node_has_another_hash() {
    let [a, b] = [leaf_hash(b"a"), leaf_hash(b"b")];
    let pretender = [&a.as_bytes()[..], b.as_bytes()].concat();
    assert_ne!(leaf_hash(&pretender), node_hash(&a, &b));
}
