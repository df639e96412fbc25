//! HLS: playlists are read, and what they say is heeded.

pub mod life;
pub mod playlist;
pub mod reference;
pub mod rewind;
