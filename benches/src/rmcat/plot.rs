//! Rates and queue over time, as SVG.

use std::{error::Error, path::Path};

use plotters::prelude::*;

use super::{cases::Case, world::Record};

const SIZE: (u32, u32) = (1_200, 700);
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x8c, 0x56, 0x4b),
];

/// Draws a run: what arrived of each flow, its estimate (thin), the capacity, and below how long packets waited.
pub fn draw(case: &Case, records: &[Record], file: &Path) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (above, below) = root.split_vertically(460);
    let seconds = case.length.as_secs_f64();
    let highest = case.links.iter().flat_map(|link| &link.rates).map(|(_, rate)| *rate).max();
    let top = highest.unwrap_or(1) as f64 / 1e6 * 1.25;

    let mut rates = ChartBuilder::on(&above)
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..seconds, 0.0..top)?;
    rates.configure_mesh().disable_mesh().y_desc("Mb/s").draw()?;
    for link in &case.links {
        let steps = (0..=(seconds * 10.0) as u32).map(|n| {
            let at = std::time::Duration::from_millis(100) * n;
            (at.as_secs_f64(), link.rate_at(at) as f64 / 1e6)
        });
        rates.draw_series(LineSeries::new(steps, BLACK.stroke_width(2)))?;
    }
    let bin = Record::BIN.as_secs_f64();
    for (record, colour) in records.iter().zip(COLOURS.iter().cycle()) {
        let received = record
            .bins
            .iter()
            .enumerate()
            .map(|(n, seen)| ((n as f64 + 1.0) * bin, seen.received as f64 * 8.0 / bin / 1e6));
        rates.draw_series(LineSeries::new(received, colour.stroke_width(1)))?;
        let estimates = record.bins.iter().enumerate().filter_map(|(n, seen)| {
            Some(((n as f64 + 1.0) * bin, (seen.estimate? as f64 / 1e6).min(top)))
        });
        rates.draw_series(LineSeries::new(estimates, colour.mix(0.45).stroke_width(2)))?;
    }

    let mut queue = ChartBuilder::on(&below)
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..seconds, 0.0..case.links[0].queue.as_secs_f64() * 1.4e3)?;
    queue.configure_mesh().disable_mesh().y_desc("queue, ms").draw()?;
    for (record, colour) in records.iter().zip(COLOURS.iter().cycle()) {
        let waits =
            record.waits.iter().map(|(at, wait)| (at.as_secs_f64(), wait.as_secs_f64() * 1e3));
        queue.draw_series(LineSeries::new(waits, colour.stroke_width(1)))?;
    }
    root.present()?;
    Ok(())
}
