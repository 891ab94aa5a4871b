// Functions of an edge's vector and their derivatives (docs/model.md), for the CPU's vectors and a GPU's scalars alike.
// Included inside the namespace of either, behind cutoffs.h, SO3KRATES_INLINE, ElementOf<V>, and of values V: splat,
// at_most, at_least, exponential, sine_cosine, and cells_below(x, most, node), whole numbers below x, not above `most`.

// Cutoff function phi and its derivative at distances d.
template <typename V>
SO3KRATES_INLINE void cutoff_function(Cutoff kind, int polynomial_order, ElementOf<V> inverse_cutoff, V d, V& value,
                                      V& slope) {
  using Real = ElementOf<V>;
  const V x = d * inverse_cutoff;
  if (kind == Cutoff::cosine) {
    constexpr Real pi = Real(3.14159265358979323846);
    V sine, cosine;  // of half the angle
    sine_cosine<V>(at_most(x, splat<V>(1)) * (pi / 2), sine, cosine);
    value = cosine * cosine;
    slope = sine * cosine * (-pi * inverse_cutoff);
  } else if (kind == Cutoff::exponential) {
    const V room = at_least(Real(1) - x * x, splat<V>(Real(1e-6)));
    value = exponential<V>(-x * x / room);
    slope = value * x / (room * room) * (-2 * inverse_cutoff);
  } else {  // polynomial; phys is that of order 3
    const int p = kind == Cutoff::phys ? 3 : polynomial_order;
    V power = splat<V>(1);  // x^(p - 1)
    for (int k = 1; k < p; ++k) power *= x;
    const Real a = Real(0.5) * (p + 1) * (p + 2), b = Real(p) * (p + 2), c = Real(0.5) * p * (p + 1);
    value = Real(1) - power * x * (a - x * (b - c * x));
    slope = power * (-a * p + x * (b * (p + 1) - x * (c * (p + 2)))) * inverse_cutoff;
  }
  const V zero = splat<V>(0);
  value = x < Real(1) ? value : zero;
  slope = x < Real(1) ? slope : zero;
}

// Weights of four of `nodes` B-spline coefficients, the first of them `node`, and of their three differences in the
// derivative. Splines are uniform in exp(-d), from `start` in steps of 1 / inverse_step; constant below the first
// distance of the table. (From the differences, as a sum that is nearly zero would lose the coefficients' digits.)
template <typename V>
SO3KRATES_INLINE void spline_weights(ElementOf<V> start, ElementOf<V> inverse_step, int nodes, V d, V* weights,
                                     V* slopes, int* node) {
  using Real = ElementOf<V>;
  const V decay = exponential<V>(-d);
  const V t = (decay - start) * inverse_step;
  const V last = splat<V>(static_cast<Real>(nodes - 3)), zero = splat<V>(0);
  const V inside = at_least(at_most(t, last), zero);
  const V f = inside - cells_below<V>(inside, nodes - 4, node), g = Real(1) - f;
  constexpr Real sixth = Real(1) / 6;
  weights[0] = g * g * g * sixth;
  weights[1] = (f * f * (3 * f - Real(6)) + Real(4)) * sixth;
  weights[2] = (g * g * (3 * g - Real(6)) + Real(4)) * sixth;
  weights[3] = f * f * f * sixth;
  V rate = decay * -inverse_step;
  rate = t < last ? rate : zero;
  rate = t > zero ? rate : zero;
  slopes[0] = g * g * Real(0.5) * rate;
  slopes[1] = (Real(0.5) + f * g) * rate;
  slopes[2] = f * f * Real(0.5) * rate;
}

// Derivative with respect to the vector, from `along`, that of the harmonics with respect to three free variables at
// the unit vector u, and from that with respect to the distance.
template <typename V>
SO3KRATES_INLINE void vector_gradient(const V* along, const V* u, V inverse_distance, V by_distance, V* gradient) {
  const V radial = along[0] * u[0] + along[1] * u[1] + along[2] * u[2];
  for (int a = 0; a < 3; ++a) gradient[a] = (along[a] - radial * u[a]) * inverse_distance + by_distance * u[a];
}

// Channels 1 to 3 are moments about an atom: moving the origin by r adds r_a times channel 0.
template <typename T, typename Real>
SO3KRATES_INLINE T moved(const T* channel, int c, const Real* r) {
  return c == 0 ? channel[0] : channel[c] + r[c - 1] * channel[0];
}
