r"""The numbered equations that claims and docstrings cite: one LaTeX text each, shown as MathML on pages.

Derivations stand in ``docs/mathematics.md``, which holds every one of these texts as it stands here, and no other
equation with a label (``tests/test_documentation.py``). Needs latex2mathml (the extra ``report``) for MathML alone.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Equation:
    """A numbered equation: what it is, in words, and its LaTeX."""

    title: str
    latex: str


EQUATIONS: Mapping[str, Equation] = {
    "S1": Equation(
        "stationary variance where curvature and noise commute",
        r"\sigma_i^2 = \frac{\eta\,\gamma_i\,(1+\mu)}{\lambda_i\,(1-\mu)\,(2(1+\mu)-\eta\lambda_i)}",
    ),
    "S2": Equation(
        "stationary covariance for any curvature and noise",
        r"\Sigma_{ij} = \frac{\eta^2\,\tilde C_{ij}\,(1-\mu)(1+\mu)}"
        r"{\frac{1}{2}(1-\mu)^2\left[a_i(2(1+\mu)-a_j)+a_j(2(1+\mu)-a_i)\right]+\mu\,(a_i-a_j)^2}",
    ),
    "S3": Equation(
        "the price of non-commutativity",
        r"\mathrm{KL}(\Sigma)-\mathrm{KL}(\operatorname{diag}\Sigma) = -\frac{1}{2}\ln\det R \ge 0",
    ),
    "T1": Equation(
        "covariance and mean k steps after a change",
        r"M_k = F^k M_0 (F^k)^\top + \sum_{l<k} F^l Q (F^l)^\top,\qquad m_k = F^k m_0 + \sum_{l<k} F^l G f",
    ),
    "T2": Equation(
        "the early-phase interpolation",
        r"\sigma^2(k) \approx \rho^{2k}\sigma_1^2 + (1-\rho^{2k})\,\sigma_2^2",
    ),
    "T3": Equation(
        "covariance and mean along any schedule",
        r"M_{\mathrm{end}} = \Phi M_{\mathrm{start}}\Phi^\top + \tilde C\circ\sum_s c_s\,\psi_s\psi_s^\top,\qquad "
        r"m_{\mathrm{end}} = \Phi m_{\mathrm{start}} + w^*\sum_s \delta_s\psi_s",
    ),
    "N1": Equation(
        "stationary covariance where the noise depends on the weights",
        r"\Sigma_{ij} = G_{ij}\,C_{ij}(\Sigma),\qquad C(\Sigma) = C_0 + \mathcal{C}(\Sigma)",
    ),
    "N2": Equation(
        "the correlation of shuffled batches, and the narrowing it brings",
        r"c_h = -\frac{M-h}{M(M-1)},\qquad "
        r"\frac{\sigma^2_{\mathrm{mean}}}{\sigma^2_{\mathrm{white}}} = 1 + 2\sum_{h=1}^{M-1} c_h\rho_h",
    ),
    "A1": Equation(
        "Adam and its relatives, with the preconditioner of the stationary state",
        r"\Sigma = D^{1/2}\,\Sigma_u\,D^{1/2},\quad D = \operatorname{diag}\frac{1}{\sqrt{s}+\epsilon},\qquad "
        r"s = \operatorname{diag}(H\Sigma H) + \operatorname{diag}C + \bar g^2",
    ),
    "B1": Equation(
        "risk and divergence of a Gaussian posterior",
        r"r = r_0 + \frac{1}{2}\sum_i\lambda_i\sigma_i^2 + \frac{1}{2}\sum_i\lambda_i m_i^2,\qquad "
        r"\mathrm{KL} = \frac{1}{2}\sum_i\left[\frac{\sigma_i^2}{\sigma_P^2}-1-\ln\frac{\sigma_i^2}{\sigma_P^2}\right]"
        r" + \frac{|m-m_P|^2}{2\sigma_P^2} - \frac{1}{2}\ln\det R",
    ),
    "B2": Equation(
        "what moved a variance",
        r"\Delta\ln\sigma_i^2 = \Delta\ln\eta + \Delta\ln\gamma_i - \Delta\ln\lambda_i - \Delta\ln(1-\mu) "
        r"+ \Delta\ln\kappa_i,\qquad \kappa_i = \frac{1}{1-\eta\lambda_i/(2(1+\mu))}",
    ),
    "C1": Equation(
        "how nearly two matrices commute",
        r"\chi = \frac{\operatorname{tr}(HCHC)}{\operatorname{tr}(H^2C^2)} = 1 - 2\delta^2,\qquad "
        r"\delta = \frac{\|HC-CH\|}{2\,\|HC\|}",
    ),
    "D1": Equation(
        "divergence of two Gaussians",
        r"\mathrm{KL}(N(m,\Sigma)\,\|\,N(m_P,\Sigma_P)) = \frac{1}{2}\left[\sum_i(x_i-1-\ln x_i) "
        r"+ (m-m_P)^\top\Sigma_P^{-1}(m-m_P)\right]",
    ),
    "D2": Equation(
        "divergence of two risks",
        r"\mathrm{kl}(r\,\|\,R) = r\ln\frac{r}{R} + (1-r)\ln\frac{1-r}{1-R}",
    ),
    "E1": Equation(
        "the edge of mean-square stability",
        r"\text{a stationary second moment exists} \iff a_1 < 2(1+\mu)\ \text{and}\ "
        r"\rho\left(X\mapsto G(\eta)\circ T(X)\right) < 1",
    ),
    "L1": Equation(
        "the ladder from theory to network",
        r"\frac{\text{network}}{\text{(P1)}} = \frac{\text{(P2)}}{\text{(P1)}}\cdot"
        r"\frac{\text{linearised}}{\text{(P2)}}\cdot\frac{\text{fixed inputs}}{\text{linearised}}\cdot"
        r"\frac{\text{attacked again}}{\text{fixed inputs}}",
    ),
    "P1": Equation(
        "variance along real mini-batches whose noise is additive",
        r"\operatorname{Var}w_t = S^2\left[\sum_s\frac{h_{ts}^2}{B_s} - \frac{\rho_b}{N}\sum_e"
        r"\left(\sum_{s\in e}h_{ts}\right)^2\right]",
    ),
    "P2": Equation(
        "moments along real mini-batches of varying curvature",
        r"x_+ = (\Phi + G D_B)\,x,\quad x = (1,\delta,v),\qquad V_+ = \Phi V\Phi^\top + G\,T(V)\,G^\top,\quad "
        r"T(V) = \mathrm{E}\,D_B V D_B^\top",
    ),
}
_CITED = re.compile(r"(?<!docs)\(([A-Z]\d)(?:[,;–-] ?([A-Z]\d))*\)")
_LABEL = re.compile(r"\b([A-Z]\d)\b")


def cited(text: str) -> tuple[str, ...]:
    """Labels that a text cites in brackets, ``(S1)`` or ``(S1, S3)``, in their order, each once."""
    return tuple(dict.fromkeys(label for found in _CITED.finditer(text) for label in _LABEL.findall(found.group())))


@functools.cache
def mathml(label: str) -> str:
    """An equation as a MathML block, its LaTeX as the text for who cannot see it.

    Raises:
        KeyError: if no equation has this label.
    """
    return to_mathml(EQUATIONS[label].latex, block=True)


@functools.cache
def to_mathml(latex: str, *, block: bool) -> str:
    """LaTeX as MathML."""
    from latex2mathml.converter import convert

    made = convert(latex, display="block" if block else "inline")
    made = re.sub(r"&#x(\w+);", _sign, made.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', ""))
    return made.replace("<math", f'<math alttext="{html.escape(" ".join(latex.split()))}"', 1)


def _sign(found: re.Match[str]) -> str:
    sign = chr(int(found[1], 16))
    return html.escape(sign)
