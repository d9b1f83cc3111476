//! QR codes for a terminal.

use qrcode::render::unicode;
use qrcode::{EcLevel, QrCode};

/// Two rows of modules per line of text; empty if the text is too long for a code.
pub fn text(content: &str) -> String {
    QrCode::with_error_correction_level(content, EcLevel::L)
        .map(|code| {
            code.render::<unicode::Dense1x2>()
                .dark_color(unicode::Dense1x2::Light)
                .light_color(unicode::Dense1x2::Dark)
                .build()
        })
        .unwrap_or_default()
}
