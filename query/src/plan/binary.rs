//! Binary operators: between scalars, between a vector and a scalar, between vectors, and set operators.

use super::aggregate::{param_of, with_sides};
use super::{Cx, Names, Planned, Planner, Vector, relabel};
use crate::exec::histogram_ops::Site;
use crate::exec::labels::{DROP_MARK, LabelRule, METADATA_LABELS, Mark, is_metadata};
use crate::exec::map::{Map, MapFn};
use crate::exec::operator::OperatorExec;
use crate::exec::set_ops::{SetOp, SetOperation};
use crate::exec::vector_match::{MatchSpec, VectorMatch};
use crate::kernel::binary::ElementOp;
use crate::promql::ast::{Binary, BinaryOp, Cardinality, Matching, Span, ValueType};
use crate::promql::print;
use crate::result::{Error, Result};

impl Planner {
    pub(super) fn binary(&self, binary: &Binary, span: Span, cx: Cx<'_>) -> Result<Planned> {
        let site = Site { span, symbol: print::operator(binary.op) };
        let vectors = (binary.lhs.value_type() == ValueType::Vector, binary.rhs.value_type() == ValueType::Vector);
        if vectors == (true, true) {
            let matching = binary.matching.as_ref().ok_or_else(|| Error::Internal("an operator between vectors has no matching".into()))?;
            return match set_op(binary.op) {
                Some(op) => self.set_operation(op, binary, matching, cx).map(Planned::Vector),
                None => self.vector_match(binary, matching, site, cx).map(Planned::Vector),
            };
        }
        let Some(op) = ElementOp::of(binary.op) else {
            return Ok(Planned::Vector(self.trim(binary, site, cx)?));
        };
        match vectors {
            (false, false) => {
                let (lhs, rhs) = (self.scalar(&binary.lhs, cx.grid)?, self.scalar(&binary.rhs, cx.grid)?);
                self.scalar_map(MapFn::VectorScalar(op, true), lhs, rhs, cx.grid).map(Planned::Scalar)
            }
            (true, _) => {
                let (vector, scalar) = (self.vector(&binary.lhs, cx)?, self.scalar(&binary.rhs, cx.grid)?);
                Ok(Planned::Vector(self.with_scalar(MapFn::VectorScalar(op, binary.return_bool), binary, vector, scalar, site, cx)))
            }
            (_, true) => {
                let (scalar, vector) = (self.scalar(&binary.lhs, cx.grid)?, self.vector(&binary.rhs, cx)?);
                Ok(Planned::Vector(self.with_scalar(MapFn::ScalarVector(op, binary.return_bool), binary, vector, scalar, site, cx)))
            }
        }
    }

    fn with_scalar(&self, function: MapFn, binary: &Binary, vector: Vector, scalar: super::Scalar, site: Site, cx: Cx<'_>) -> Vector {
        let mut sides = Vec::new();
        let param = param_of(scalar, &mut sides);
        let plan = OperatorExec::new(Map::with_params(function, vec![param], cx.grid).at(site), with_sides(vector.plan, sides));
        let vector = Vector { plan, ..vector };
        let keeps = binary.op.is_comparison() || matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
        if !keeps || binary.return_bool { self.remove_names(vector, cx) } else { vector }
    }

    /// `</` and `>/` cut native histograms on the left at the scalar on the right; nothing else has a result.
    fn trim(&self, binary: &Binary, site: Site, cx: Cx<'_>) -> Result<Vector> {
        if binary.rhs.value_type() == ValueType::Vector {
            let vector = self.vector(&binary.rhs, Cx::plain(cx.grid, cx.names))?;
            return Ok(Vector { plan: OperatorExec::new(Map::new(MapFn::Nothing, cx.grid), vec![vector.plan]), reduced: false, ..vector });
        }
        let vector = self.vector(&binary.lhs, cx)?;
        let scalar = self.scalar(&binary.rhs, cx.grid)?;
        Ok(self.with_scalar(MapFn::Trim(binary.op == BinaryOp::TrimLower), binary, vector, scalar, site, cx))
    }

    fn vector_match(&self, binary: &Binary, matching: &Matching, site: Site, cx: Cx<'_>) -> Result<Vector> {
        let sides = Cx::plain(cx.grid, looks_at_names(matching) || cx.names || !matching.include.is_empty());
        let (lhs, rhs) = (self.vector(&binary.lhs, sides)?, self.vector(&binary.rhs, sides)?);
        let Some(op) = ElementOp::of(binary.op) else {
            return Ok(Vector { plan: OperatorExec::new(Map::new(MapFn::Nothing, cx.grid), vec![lhs.plan]), reduced: false, ..lhs });
        };
        let many_is_right = matching.cardinality == Cardinality::OneToMany;
        let (many, one) = if many_is_right { (rhs, lhs) } else { (lhs, rhs) };
        let one_to_one = matching.cardinality == Cardinality::OneToOne;
        let arithmetic = !binary.op.is_comparison();
        let metadata: &[&str] = if arithmetic { &[METADATA_LABELS[0], METADATA_LABELS[1], METADATA_LABELS[2], DROP_MARK] } else { &[] };
        let result = match (one_to_one, matching.on) {
            (true, true) => {
                let kept: Vec<String> = matching.labels.iter().filter(|l| !arithmetic || !is_metadata(l)).cloned().collect();
                LabelRule::keeping(&kept, if many.names == Names::Marked && !arithmetic { &[DROP_MARK] } else { &[] })
            }
            (true, false) => LabelRule::dropping(&matching.labels, metadata),
            (false, _) => LabelRule::dropping(&[], metadata),
        };
        let spec = MatchSpec {
            op,
            return_bool: binary.return_bool,
            key: key_rule(matching),
            shown: if matching.on { LabelRule::by(&matching.labels) } else { LabelRule::without(&matching.labels) },
            result,
            include: matching.include.clone(),
            grouped: !one_to_one,
            many_is_right,
            // As in Prometheus, group_right changes the sides but not the values that fill them.
            fill_many: matching.fill_lhs,
            fill_one: matching.fill_rhs,
            steps: cx.grid.len,
            site,
        };
        let names = if arithmetic { Names::Kept } else { many.names };
        let plan = OperatorExec::new(VectorMatch(spec), vec![many.plan, one.plan]);
        let vector = Vector { plan, names, reduced: false, rows: many.rows, groups: many.groups, unique: false, origin: None };
        Ok(if binary.return_bool { self.remove_names(vector, cx) } else { vector })
    }

    fn set_operation(&self, op: SetOp, binary: &Binary, matching: &Matching, cx: Cx<'_>) -> Result<Vector> {
        let sides = Cx::plain(cx.grid, looks_at_names(matching) || cx.names);
        let (mut lhs, mut rhs) = (self.vector(&binary.lhs, sides)?, self.vector(&binary.rhs, sides)?);
        if op == SetOp::Or && lhs.names != rhs.names {
            // Where one side's names are to be removed and the other's are not, each row has to say so.
            for side in [&mut lhs, &mut rhs] {
                if side.names == Names::Pending {
                    side.plan = OperatorExec::new(Mark { steps: cx.grid.len }, vec![relabel(side, LabelRule::without_mark())]);
                }
                side.names = Names::Marked;
            }
        }
        let rows = if op == SetOp::Or { lhs.rows + rhs.rows } else { lhs.rows };
        let plan = OperatorExec::new(SetOperation { op, key: key_rule(matching), steps: cx.grid.len }, vec![lhs.plan, rhs.plan]);
        let origin = if op == SetOp::Or { None } else { lhs.origin };
        Ok(Vector { plan, names: lhs.names, reduced: false, rows, groups: rows, unique: op != SetOp::Or && lhs.unique, origin })
    }
}

/// What rows are matched on. `ignoring` always ignores the name.
fn key_rule(matching: &Matching) -> LabelRule {
    if matching.on { LabelRule::by(&matching.labels) } else { LabelRule::without(&matching.labels) }
}

/// Whether type and unit (or, with `on`, the name) of a row can matter to the match even if they are to be removed.
fn looks_at_names(matching: &Matching) -> bool {
    !matching.on || matching.labels.iter().any(|l| is_metadata(l))
}

fn set_op(op: BinaryOp) -> Option<SetOp> {
    match op {
        BinaryOp::And => Some(SetOp::And),
        BinaryOp::Or => Some(SetOp::Or),
        BinaryOp::Unless => Some(SetOp::Unless),
        _ => None,
    }
}
