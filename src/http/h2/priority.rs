//! What clients, and those who make the answers, say of the order in which responses are sent (RFC 9218).

use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// The field's name, in requests and in responses.
pub const FIELD: &str = "priority";

/// How urgent a response is, and what it is good for in parts (RFC 9218, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// 0 to 7; the lowest goes first.
    pub urgency: u8,
    /// Whether a part of it is of use before the rest is there.
    pub incremental: bool,
}

impl Default for Priority {
    fn default() -> Priority {
        Priority { urgency: 3, incremental: false }
    }
}

impl Priority {
    /// This, with what a field says in place of what it speaks of. What is no dictionary says nothing, nor does a
    /// value of another type or out of bounds (RFC 9218, 4); what an upstream says goes over what the client
    /// said (section 8).
    pub fn with(mut self, field: &[u8]) -> Priority {
        let Ok(said) = Parser::new(field).parse::<Dictionary>() else { return self };
        let item = |name: &str| match said.get(name) {
            Some(ListEntry::Item(item)) => Some(&item.bare_item),
            _ => None,
        };
        if let Some(BareItem::Integer(urgency)) = item("u")
            && let Ok(urgency @ 0..=7) = u8::try_from(i64::from(*urgency))
        {
            self.urgency = urgency;
        }
        if let Some(BareItem::Boolean(incremental)) = item("i") {
            self.incremental = *incremental;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_as_they_come() {
        let at = |urgency, incremental| Priority { urgency, incremental };
        for (field, want) in [
            ("", at(3, false)),
            ("u=0", at(0, false)),
            ("u=7, i", at(7, true)),
            ("i, u=1;x=y, new=(1 2)", at(1, true)),
            ("i=?0", at(3, false)),
            ("u=8", at(3, false)),
            ("u=-1", at(3, false)),
            ("u=1.0", at(3, false)),
            ("u=\"1\", i", at(3, true)),
            ("u=(1)", at(3, false)),
            ("i=1", at(3, false)),
            ("u=1, u=2", at(2, false)),
            ("u=1,", at(3, false)),
            ("u = 1", at(3, false)),
            ("U=1", at(3, false)),
        ] {
            assert_eq!(Priority::default().with(field.as_bytes()), want, "{field}");
        }
        assert_eq!(at(1, true).with(b"u=5"), at(5, true));
        assert_eq!(at(1, true).with(b"i=?0"), at(1, false));
        assert_eq!(at(1, true).with(b"\xff"), at(1, true));
    }
}
