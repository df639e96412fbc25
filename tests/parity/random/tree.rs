//! A configuration as a tree from which parts can be taken away.

/// A directive and, if it has one, its block.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The name and the arguments, quoted as they are written.
    pub words: Vec<String>,
    pub block: Option<Vec<Node>>,
}

/// Where a node is: the index in each level from the top.
pub type Place = Vec<usize>;

impl Node {
    pub fn line(words: &[&str]) -> Node {
        Node { words: words.iter().map(|w| (*w).to_owned()).collect(), block: None }
    }

    pub fn block(words: &[&str], block: Vec<Node>) -> Node {
        Node { block: Some(block), ..Node::line(words) }
    }
}

/// The text of the directives.
pub fn render(nodes: &[Node]) -> String {
    let mut out = String::new();
    write(nodes, 0, &mut out);
    out
}

fn write(nodes: &[Node], depth: usize, out: &mut String) {
    let indent = "    ".repeat(depth);
    for node in nodes {
        out.push_str(&indent);
        out.push_str(&node.words.join(" "));
        match &node.block {
            None => out.push_str(";\n"),
            Some(block) => {
                out.push_str(" {\n");
                write(block, depth + 1, out);
                out.push_str(&indent);
                out.push_str("}\n");
            }
        }
    }
}

/// The places of all nodes, outer ones first.
pub fn places(nodes: &[Node]) -> Vec<Place> {
    let mut found = vec![];
    collect(nodes, &mut vec![], &mut found);
    found.sort_by_key(Vec::len);
    found
}

fn collect(nodes: &[Node], at: &mut Place, found: &mut Vec<Place>) {
    for (n, node) in nodes.iter().enumerate() {
        at.push(n);
        found.push(at.clone());
        collect(node.block.as_deref().unwrap_or_default(), at, found);
        at.pop();
    }
}

/// The node at a place.
pub fn get<'a>(nodes: &'a mut [Node], place: &[usize]) -> Option<&'a mut Node> {
    let (first, rest) = place.split_first()?;
    let node = nodes.get_mut(*first)?;
    if rest.is_empty() { Some(node) } else { get(node.block.as_mut()?, rest) }
}

/// Puts these in the place of a node.
pub fn replace(nodes: &mut Vec<Node>, place: &[usize], with: Vec<Node>) -> Option<()> {
    let (first, rest) = place.split_first()?;
    if rest.is_empty() {
        nodes.get(*first)?;
        nodes.splice(*first..=*first, with);
        return Some(());
    }
    replace(nodes.get_mut(*first)?.block.as_mut()?, rest, with)
}
