//! Reports: JSON for programs, Markdown and HTML with figures for people.

pub mod figures;
pub mod html;
