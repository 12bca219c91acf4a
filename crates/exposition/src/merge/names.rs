//! Metric names of the response, each stored once and referred to by a number.
//!
//! The plan compares and looks up the same few names for every target. A number is compared in one instruction, and a body
//! with a million distinct names costs one copy of each of them.

use std::hash::BuildHasher as _;

use hashbrown::HashTable;

/// A name in [`Names`]. Equal numbers mean equal names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NameId(u32);

/// All names that occur in one response: of families, and of samples.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The names, one after the other.
    bytes: Vec<u8>,
    /// Where each name ends in `bytes`.
    ends: Vec<usize>,
    ids: HashTable<NameId>,
}

impl Names {
    pub(crate) fn get(&self, id: NameId) -> &[u8] {
        let id = id.0 as usize;
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[id]]
    }

    /// The number of a name, if it has one.
    pub(crate) fn find(&self, name: &[u8]) -> Option<NameId> {
        let hash = crate::hasher().hash_one(name);
        self.ids.find(hash, |&id| self.get(id) == name).copied()
    }

    /// The number of a name. A new name gets the next number.
    pub(crate) fn intern(&mut self, name: &[u8]) -> NameId {
        if let Some(id) = self.find(name) {
            return id;
        }
        // 2^32 different names would need more memory than offsets into bodies can address.
        let id = NameId(u32::try_from(self.ends.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(name);
        self.ends.push(self.bytes.len());
        let hash = crate::hasher().hash_one(name);
        let Self { bytes, ends, ids } = self;
        ids.insert_unique(hash, id, |&NameId(other)| {
            let other = other as usize;
            let start = other.checked_sub(1).map_or(0, |before| ends[before]);
            crate::hasher().hash_one(&bytes[start..ends[other]])
        });
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_have_one_number() {
        let mut names = Names::default();
        let all: Vec<String> = (0..2000).map(|i| format!("name_{}", i % 1000)).collect();
        let ids: Vec<NameId> = all.iter().map(|name| names.intern(name.as_bytes())).collect();
        assert_eq!(ids[..1000], ids[1000..]);
        for (name, id) in all.iter().zip(&ids) {
            assert_eq!(names.get(*id), name.as_bytes());
            assert_eq!(names.find(name.as_bytes()), Some(*id));
        }
        assert_eq!(names.find(b"name_1000"), None);
        assert_eq!(names.ends.len(), 1000);
    }

    #[test]
    fn the_empty_name_is_a_name() {
        let mut names = Names::default();
        let (first, empty) = (names.intern(b"a"), names.intern(b""));
        assert_ne!(first, empty);
        assert_eq!(names.get(empty), b"");
    }
}
