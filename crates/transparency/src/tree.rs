//! The Merkle tree hash of RFC 6962, section 2.1 (the same in RFC 9162, section 2.1.1), and the proofs that a
//! whole tree can give (RFC 9162, sections 2.1.3.1 and 2.1.4.1).

use consilium_core::Digest;

/// Hash of an entry. The prefix keeps it apart from [`node_hash`], so that no entry can pose as a node.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Digest {
    Digest::of(&[&[0], entry].concat())
}

/// Hash of two subtrees.
#[must_use]
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest::of(&[&[1], &left.as_bytes()[..], right.as_bytes()].concat())
}

/// Root of a tree without entries.
#[must_use]
pub fn empty_root() -> Digest {
    Digest::of(b"")
}

/// A whole tree in memory, appended to; it gives roots and proofs of every size that it has had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// `levels[k][i]` is the root of the complete subtree over the leaves `i * 2^k` up to `(i + 1) * 2^k`.
    levels: Vec<Vec<Digest>>,
}

impl Tree {
    /// Appends a leaf.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let nodes = &mut self.levels[level];
            nodes.push(hash);
            let [.., left, right] = &nodes[..] else {
                return;
            };
            if nodes.len() % 2 == 1 {
                return;
            }
            hash = node_hash(left, right);
        }
    }

    /// Leaves.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// Whether there is no leaf.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// The leaf hash of an entry.
    #[must_use]
    pub fn leaf(&self, index: u64) -> Option<Digest> {
        let leaves = self.levels.first()?;
        leaves.get(usize::try_from(index).ok()?).copied()
    }

    /// The root of the whole tree.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.subtree(0, self.len())
    }

    /// The root that the tree had with `size` leaves; nothing for more than there are.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Digest> {
        (size <= self.len()).then(|| self.subtree(0, size))
    }

    /// The path that proves the leaf `index` in the tree of `size` leaves; nothing where there is no such leaf.
    #[must_use]
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Digest>> {
        if index >= size || size > self.len() {
            return None;
        }
        let (mut start, mut end, mut path) = (0, size, Vec::new());
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                path.push(self.subtree(middle, end));
                end = middle;
            } else {
                path.push(self.subtree(start, middle));
                start = middle;
            }
        }
        path.reverse();
        Some(path)
    }

    /// The path that proves that the tree of `size` leaves continues the one of `before`; nothing where there
    /// are not as many. Empty where there is nothing to prove: from no leaves, and between equal sizes.
    #[must_use]
    pub fn consistency(&self, before: u64, size: u64) -> Option<Vec<Digest>> {
        if before > size || size > self.len() {
            return None;
        }
        let mut path = Vec::new();
        if before == 0 || before == size {
            return Some(path);
        }
        // Whether the subtree that is left is the whole older tree, whose root the reader knows.
        let (mut start, mut end, mut known) = (0, size, true);
        while before < end {
            let middle = start + split(end - start);
            if before <= middle {
                path.push(self.subtree(middle, end));
                end = middle;
            } else {
                path.push(self.subtree(start, middle));
                start = middle;
                known = false;
            }
        }
        if !known {
            path.push(self.subtree(start, end));
        }
        path.reverse();
        Some(path)
    }

    /// Root of the leaves from `start` to `end`. `start` is a multiple of the largest complete subtree in it.
    fn subtree(&self, start: u64, end: u64) -> Digest {
        let size = end - start;
        if size == 0 {
            return empty_root();
        }
        if size.is_power_of_two() {
            return self.levels[size.ilog2() as usize][(start / size) as usize];
        }
        let middle = start + split(size);
        node_hash(&self.subtree(start, middle), &self.subtree(middle, end))
    }
}

impl FromIterator<Digest> for Tree {
    fn from_iter<I: IntoIterator<Item = Digest>>(leaves: I) -> Self {
        let mut tree = Self::default();
        leaves.into_iter().for_each(|leaf| tree.push(leaf));
        tree
    }
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The right edge of a tree: enough to append and to know the root, in a handful of hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of the complete subtrees, the largest first: one for each bit of the size.
    complete: Vec<Digest>,
}

impl Frontier {
    /// Appends a leaf.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            // Cannot be empty: there is one root for each set bit.
            let left = self
                .complete
                .pop()
                .expect("a subtree for each bit of the size");
            hash = node_hash(&left, &hash);
        }
        self.complete.push(hash);
        self.size += 1;
    }

    /// Leaves.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.size
    }

    /// Whether there is no leaf.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Digest {
        let right_to_left = self.complete.iter().rev().copied();
        right_to_left
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(empty_root)
    }
}
