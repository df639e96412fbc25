//! Edgewater.
