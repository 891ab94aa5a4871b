// Dispersion of a pair of atoms (docs/so3lr.md), for the CPU's vectors and a GPU's scalars alike. Included inside the
// namespace of either, behind SO3KRATES_INLINE and ElementOf<V>.

// Energy over C6 and minus the switch, and its derivatives.
template <typename V>
struct Dispersed {
  V value, by_square, through_root;  // with respect to y; to the root, times the root
};

// a6 + 5 g a8 + 245/8 g^2 a10 with a_n = 1 / (R^n + p^n) and g = 1 / gamma, of even powers alone: y = R^2, z = p^2.
// root: seventh root of the pair's polarisability; p is `radius` times it, and `spread` are its powers in s, g = 2 s^2.
template <typename V>
SO3KRATES_INLINE Dispersed<V> dispersion_of(V y, V root, ElementOf<V> radius, const ElementOf<V>* spread) {
  using Real = ElementOf<V>;
  const V s = spread[0] + root * (spread[1] + root * (spread[2] + root * spread[3]));
  const V s_slope = spread[1] + root * (Real(2) * spread[2] + Real(3) * root * spread[3]);
  const V g = Real(2) * s * s, g_slope = Real(4) * s * s_slope;
  const V y2 = y * y, y3 = y2 * y, y4 = y2 * y2;
  const V p = root * radius, z = p * p, z2 = z * z, z3 = z2 * z, z4 = z2 * z2;
  const V a6 = Real(1) / (y3 + z3), a8 = Real(1) / (y4 + z4), a10 = Real(1) / (y4 * y + z4 * z);
  const V c8 = Real(5) * g, c10 = Real(245.0 / 8.0) * g * g;
  const V b6 = a6 * a6, b8 = c8 * a8 * a8, b10 = c10 * a10 * a10;
  const V by_radius = -(Real(6) * z3 * b6 + Real(8) * z4 * b8 + Real(10) * z4 * z * b10);  // times the root
  return {a6 + c8 * a8 + c10 * a10, -(Real(3) * y2 * b6 + Real(4) * y3 * b8 + Real(5) * y4 * b10),
          by_radius + root * g_slope * (Real(5) * a8 + Real(245.0 / 4.0) * g * a10)};
}
