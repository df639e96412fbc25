//! One configured value, and how a level gets it from the level around it.

use super::diag::{ConfError, ConfResult};
use super::dump::Dump;
use std::fmt::Debug;
use std::ops::Deref;

/// Something that takes from the level around it what it was not given itself.
pub trait Inherit {
    /// Takes from `outer`, which is already complete, what this level left unset.
    fn inherit(&mut self, outer: &Self);
    /// Tells `out` what there is under `name`; what a level keeps for itself, when it is not `default`.
    fn dump(&self, default: &Self, name: &str, out: &mut Dump);
}

/// A value with a default, inherited when not set. Reads as the value.
#[derive(Clone, Debug, Default)]
pub struct Setting<T> {
    value: T,
    set: bool,
}

impl<T> Setting<T> {
    /// The default, which an outer level's value replaces.
    pub const fn new(default: T) -> Setting<T> {
        Setting { value: default, set: false }
    }

    /// Whether this level or, after inheritance, an outer one set it.
    pub fn is_set(&self) -> bool {
        self.set
    }

    /// Sets the value; a second time at the same level is nginx's `is duplicate`.
    pub fn set(&mut self, value: T) -> ConfResult<()> {
        if self.set {
            return Err(ConfError::new("\"{}\" directive is duplicate"));
        }
        self.replace(value);
        Ok(())
    }

    /// Sets the value, whether or not it was set.
    pub fn replace(&mut self, value: T) {
        self.value = value;
        self.set = true;
    }

    /// The value to add to, for directives that may be repeated at a level.
    pub fn edit(&mut self) -> &mut T {
        self.set = true;
        &mut self.value
    }
}

impl<T> Deref for Setting<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Clone + Debug> Inherit for Setting<T> {
    fn inherit(&mut self, outer: &Self) {
        if !self.set {
            self.clone_from(outer);
        }
    }

    fn dump(&self, _: &Self, name: &str, out: &mut Dump) {
        out.inherited(name, &self.value);
    }
}

/// A value that belongs to its level alone and is not inherited.
#[derive(Clone, Debug, Default)]
pub struct Own<T>(pub T);

impl<T> Deref for Own<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> std::ops::DerefMut for Own<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Debug> Inherit for Own<T> {
    fn inherit(&mut self, _: &Self) {}

    fn dump(&self, default: &Self, name: &str, out: &mut Dump) {
        out.own(name, &self.0, &default.0);
    }
}

/// Declares a module's configuration: fields with docs, types and defaults, each inherited.
///
/// `name: Type = default` is a [`Setting`]; `own name: Type = default` is an [`Own`].
#[macro_export]
macro_rules! settings {
    (@field_type inherit $t:ty) => { $crate::conf::Setting<$t> };
    (@field_type own $t:ty) => { $crate::conf::Own<$t> };
    (@init inherit $d:expr) => { $crate::conf::Setting::new($d) };
    (@init own $d:expr) => { $crate::conf::Own($d) };
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$fmeta:meta])* $kind:ident $field:ident : $t:ty = $default:expr ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $crate::settings!(@field_type $kind $t), )*
        }
        impl Default for $name {
            fn default() -> Self {
                $name { $( $field: $crate::settings!(@init $kind $default), )* }
            }
        }
        impl $crate::conf::Inherit for $name {
            #[allow(unused_variables)]
            fn inherit(&mut self, outer: &Self) {
                $( $crate::conf::Inherit::inherit(&mut self.$field, &outer.$field); )*
            }
            #[allow(unused_variables)]
            fn dump(&self, default: &Self, name: &str, out: &mut $crate::conf::dump::Dump) {
                $(
                    let field = out.join(name, stringify!($field));
                    $crate::conf::Inherit::dump(&self.$field, &default.$field, &field, out);
                )*
            }
        }
    };
}
pub use settings;
