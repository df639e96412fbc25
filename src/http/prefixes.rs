//! Texts by what they begin with: a radix tree that never changes. A search costs as much as the text is long, however many
//! keys there are.

/// Values by key.
#[derive(Clone, Debug)]
pub struct Prefixes<V> {
    /// The root first; the children of a node stand next to each other.
    nodes: Vec<Node>,
    /// Of each node the first byte of its label; the root has none and 0 here.
    firsts: Vec<u8>,
    /// All labels.
    labels: Vec<u8>,
    values: Vec<V>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// Where its label stands: what it adds to the key of its parent.
    label: (u32, u32),
    /// Its children: the first, and how many there are.
    children: (u32, u16),
    /// The value of its key, [`NONE`] where it only branches.
    value: u32,
}

const NONE: u32 = u32::MAX;

/// Where a text ended in the tree: in a node, so many bytes before the end of its label.
#[derive(Clone, Copy, Debug)]
pub struct End {
    node: usize,
    left: usize,
}

impl<V> Default for Prefixes<V> {
    fn default() -> Prefixes<V> {
        Prefixes::build(Vec::new())
    }
}

impl<V> Prefixes<V> {
    /// A tree of these keys; of equal ones the first counts.
    pub fn build(mut entries: Vec<(Vec<u8>, V)>) -> Prefixes<V> {
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|(a, _), (b, _)| a == b);
        let (keys, values): (Vec<Vec<u8>>, Vec<V>) = entries.into_iter().unzip();
        let root = Node { label: (0, 0), children: (0, 0), value: NONE };
        let mut tree = Prefixes { nodes: vec![root], firsts: vec![0], labels: Vec::new(), values };
        // Nodes whose children are still to be made: of which keys, and how long what those share is.
        let mut open = vec![(0, 0..keys.len(), 0)];
        while let Some((node, mut range, shared)) = open.pop() {
            // Sorted, the shortest comes first: it is the node's own, or there is none.
            if range.start < range.end && keys[range.start].len() == shared {
                tree.nodes[node].value = range.start as u32;
                range.start += 1;
            }
            let first = tree.nodes.len();
            while range.start < range.end {
                let from = range.start;
                let byte = keys[from][shared];
                let count = keys[range.clone()].partition_point(|key| key[shared] == byte);
                range.start += count;
                // What the first and the last share all between them share.
                let (one, other) = (&keys[from], &keys[range.start - 1]);
                let same = one.iter().zip(other).skip(shared).take_while(|(a, b)| a == b).count();
                let label = (tree.labels.len() as u32, same as u32);
                tree.labels.extend_from_slice(&one[shared..shared + same]);
                tree.nodes.push(Node { label, children: (0, 0), value: NONE });
                tree.firsts.push(byte);
                open.push((tree.nodes.len() - 1, from..range.start, shared + same));
            }
            tree.nodes[node].children = (first as u32, (tree.nodes.len() - first) as u16);
        }
        tree
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Visits the keys that `text` begins with, the shortest first, by their lengths and values. Where the text is the
    /// beginning of a key, says where it ended.
    #[inline]
    pub fn walk<'a>(&'a self, text: &[u8], mut visit: impl FnMut(usize, &'a V)) -> Option<End> {
        let (mut node, mut read) = (0, 0);
        loop {
            if let Some(value) = self.values.get(self.nodes[node].value as usize) {
                visit(read, value);
            }
            let Some(byte) = text.get(read) else { return Some(End { node, left: 0 }) };
            node = self.child(node, *byte)?;
            let (label, rest) = (self.label(node), &text[read..]);
            if label.len() > rest.len() {
                return label.starts_with(rest).then(|| End { node, left: label.len() - rest.len() });
            }
            if !rest.starts_with(label) {
                return None;
            }
            read += label.len();
        }
    }

    /// The value of the key that has one more byte than the text that ended there.
    pub fn one_more(&self, end: End, byte: u8) -> Option<&V> {
        let node = match end.left {
            0 => self.child(end.node, byte).filter(|child| self.nodes[*child].label.1 == 1)?,
            1 if self.label(end.node).last() == Some(&byte) => end.node,
            _ => return None,
        };
        self.values.get(self.nodes[node].value as usize)
    }

    fn label(&self, node: usize) -> &[u8] {
        let (from, length) = self.nodes[node].label;
        &self.labels[from as usize..(from + length) as usize]
    }

    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let (from, count) = self.nodes[node].children;
        let (from, count) = (from as usize, usize::from(count));
        let firsts = &self.firsts[from..from + count];
        let at = match firsts {
            [first] => (*first == byte).then_some(0),
            _ => memchr::memchr(byte, firsts),
        };
        at.map(|at| from + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_byte_may_branch_and_the_empty_key_is_one() {
        let mut entries: Vec<_> = (0..=255u8).map(|byte| (vec![b'/', byte], u32::from(byte))).collect();
        entries.push((Vec::new(), 1000));
        let tree = Prefixes::build(entries);
        for byte in 0..=255 {
            let mut seen = Vec::new();
            tree.walk(&[b'/', byte, b'x'], |length, value| seen.push((length, *value)));
            assert_eq!(seen, [(0, 1000), (2, u32::from(byte))]);
        }
        assert!(Prefixes::<u8>::default().walk(b"/", |_, _| panic!()).is_none());
    }

    proptest::proptest! {
        /// Against the definition.
        #[test]
        fn the_keys_a_text_begins_with(
            keys in proptest::collection::vec("[ab/]{0,6}", 0..40),
            text in "[ab/]{0,8}",
        ) {
            let mut expected = BTreeMap::new();
            for (at, key) in keys.iter().enumerate() {
                expected.entry(key.clone()).or_insert(at);
            }
            let tree = Prefixes::build(keys.iter().enumerate().map(|(at, k)| (k.clone().into_bytes(), at)).collect());
            let mut seen = Vec::new();
            let end = tree.walk(text.as_bytes(), |length, at| seen.push((length, *at)));
            let begins: Vec<_> =
                expected.iter().filter(|(k, _)| text.starts_with(*k)).map(|(k, at)| (k.len(), *at)).collect();
            proptest::prop_assert_eq!(seen, begins);
            proptest::prop_assert_eq!(end.is_some(), text.is_empty() || keys.iter().any(|k| k.starts_with(&text)));
            let more = end.and_then(|end| tree.one_more(end, b'/')).copied();
            proptest::prop_assert_eq!(more, expected.get(&format!("{text}/")).copied());
        }
    }
}
