// Real spherical harmonics and their derivatives, for the CPU's vectors and a GPU's scalars alike. Included inside the
// namespace of either, after the definitions of SO3KRATES_INLINE and ElementOf<V>.

// A value and its derivatives with respect to three variables: one source for the harmonics and their adjoint.
template <typename V>
struct Dual {
  V value, slope[3];
};
template <typename V>
SO3KRATES_INLINE Dual<V> operator*(const Dual<V>& a, const Dual<V>& b) {
  return {a.value * b.value,
          {a.slope[0] * b.value + a.value * b.slope[0], a.slope[1] * b.value + a.value * b.slope[1],
           a.slope[2] * b.value + a.value * b.slope[2]}};
}
template <typename V>
SO3KRATES_INLINE Dual<V> operator+(const Dual<V>& a, const Dual<V>& b) {
  return {a.value + b.value, {a.slope[0] + b.slope[0], a.slope[1] + b.slope[1], a.slope[2] + b.slope[2]}};
}
template <typename V>
SO3KRATES_INLINE Dual<V> operator-(const Dual<V>& a, const Dual<V>& b) {
  return {a.value - b.value, {a.slope[0] - b.slope[0], a.slope[1] - b.slope[1], a.slope[2] - b.slope[2]}};
}
template <typename V>
SO3KRATES_INLINE Dual<V> operator*(ElementOf<V> s, const Dual<V>& a) {
  return {s * a.value, {s * a.slope[0], s * a.slope[1], s * a.slope[2]}};
}
template <typename V>
SO3KRATES_INLINE Dual<V> operator-(const Dual<V>& a, ElementOf<V> s) {
  return {a.value - s, {a.slope[0], a.slope[1], a.slope[2]}};
}

// Real spherical harmonics of one degree, m = -l..l, of the unit vector (x, y, z) (docs/model.md); T is a vector or its
// dual.
template <typename T, typename Emit, typename Real>
SO3KRATES_INLINE void harmonics_of_degree(int degree, T x, T y, T z, Real, Emit&& emit) {
  const T xx = x * x, yy = y * y, zz = z * z;
  const auto c = [](double number) { return static_cast<Real>(number); };
  if (degree == 1) {
    const Real a = c(0.48860251190291992159);  // sqrt(3 / 4 pi)
    emit(0, a * y), emit(1, a * z), emit(2, a * x);
  } else if (degree == 2) {
    const Real a = c(1.09254843059207907054);  // sqrt(15 / pi) / 2
    const Real b = c(0.31539156525252000603);  // sqrt(5 / pi) / 4
    emit(0, a * (x * y)), emit(1, a * (y * z)), emit(2, b * (c(3) * zz - c(1)));
    emit(3, a * (x * z)), emit(4, c(0.5) * a * (xx - yy));
  } else if (degree == 3) {
    const Real a = c(0.59004358992664351035);  // sqrt(35 / 2 pi) / 4
    const Real b = c(2.89061144264055405538);  // sqrt(105 / pi) / 2
    const Real d = c(0.45704579946446573616);  // sqrt(21 / 2 pi) / 4
    const Real e = c(0.37317633259011539141);  // sqrt(7 / pi) / 4
    emit(0, a * (y * (c(3) * xx - yy))), emit(1, b * (x * y * z)), emit(2, d * (y * (c(5) * zz - c(1))));
    emit(3, e * (z * (c(5) * zz - c(3)))), emit(4, d * (x * (c(5) * zz - c(1))));
    emit(5, c(0.5) * b * ((xx - yy) * z)), emit(6, a * (x * (xx - c(3) * yy)));
  } else {
    const Real a = c(2.50334294179670453835);  // 3 sqrt(35 / pi) / 4
    const Real b = c(1.77013076977993053104);  // 3 sqrt(35 / 2 pi) / 4
    const Real d = c(0.94617469575756001809);  // 3 sqrt(5 / pi) / 4
    const Real e = c(0.66904654355728916795);  // 3 sqrt(5 / 2 pi) / 4
    const Real f = c(0.10578554691520430380);  // 3 / 16 sqrt(1 / pi)
    emit(0, a * (x * y * (xx - yy))), emit(1, b * (y * z * (c(3) * xx - yy))),
        emit(2, d * (x * y * (c(7) * zz - c(1))));
    emit(3, e * (y * z * (c(7) * zz - c(3)))), emit(4, f * (zz * (c(35) * zz - c(30)) - c(-3)));
    emit(5, e * (x * z * (c(7) * zz - c(3)))), emit(6, c(0.5) * d * ((xx - yy) * (c(7) * zz - c(1))));
    emit(7, b * (x * z * (xx - c(3) * yy)));
    emit(8, c(0.25) * a * (xx * (xx - c(3) * yy) - yy * (c(3) * xx - yy)));
  }
}
