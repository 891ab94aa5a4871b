// The kernels of training as XLA custom calls. Arguments come by position as so3krates/training/attention.py gives
// them: number of pairs in use, rows of their two atoms, then the arrays.
#include "training.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "body.h"
#include "data_type.h"
#include "parallel.h"
#include "thread_sanitizer.h"

namespace so3krates::kernels {
namespace {

namespace ffi = xla::ffi;

constexpr int kLeastPairs = 512;  // that are worth a task

// One array of a call: where its pointer belongs, and what its rows are.
enum class Rows { atoms, pairs, coefficients };
template <typename Real>
struct In {
  const Real* AttentionArrays<Real>::* place;
  Rows rows;
};
template <typename Real>
struct Out {
  Real* AttentionArrays<Real>::* place;
  Rows rows;
};

template <typename Real>
struct Signature {
  typename Body<Real>::Attention Body<Real>::* function;
  std::vector<In<Real>> in;
  std::vector<Out<Real>> out;
};

enum class Name { attend, attend_adjoint, attend_second, gather, gather_adjoint, gather_second };

template <typename Real>
Signature<Real> signature(Name name) {
  using A = AttentionArrays<Real>;
  using B = Body<Real>;
  const In<Real> query{&A::query, Rows::atoms}, key{&A::key, Rows::atoms}, filter{&A::filter, Rows::pairs},
      coefficient{&A::coefficient, Rows::coefficients}, query_t{&A::query_t, Rows::atoms},
      key_t{&A::key_t, Rows::atoms}, filter_t{&A::filter_t, Rows::pairs},
      coefficient_t{&A::coefficient_t, Rows::coefficients};
  const Out<Real> to_query{&A::query_out, Rows::atoms}, to_key{&A::key_out, Rows::atoms},
      to_filter{&A::filter_out, Rows::pairs}, to_coefficient{&A::coefficient_out, Rows::coefficients};
  switch (name) {
    case Name::attend:
      return {&B::attend, {query, filter, key}, {to_coefficient}};
    case Name::attend_adjoint:
      return {&B::attend_adjoint, {coefficient, query, filter, key}, {to_query, to_filter, to_key}};
    case Name::attend_second:
      return {&B::attend_second,
              {query_t, filter_t, key_t, coefficient, query, filter, key},
              {to_coefficient, to_query, to_filter, to_key}};
    case Name::gather:
      return {&B::gather, {coefficient, key}, {to_query}};
    case Name::gather_adjoint:
      return {&B::gather_adjoint, {query, coefficient, key}, {to_coefficient, to_key}};
    case Name::gather_second:
      return {&B::gather_second, {coefficient_t, key_t, query, coefficient, key}, {to_query, to_coefficient, to_key}};
  }
  throw std::logic_error("unknown kernel");
}

template <typename Real>
void run(Name name, ffi::ThreadPool& pool, const ffi::RemainingArgs& arguments, ffi::RemainingRets& results,
         int heads) {
  const Signature<Real> signature = kernels::signature<Real>(name);
  const auto argument = [&](std::size_t k) { return arguments.get<ffi::AnyBuffer>(k).value(); };
  const auto extent = [&](std::size_t k, std::size_t axis) {
    return static_cast<int>(argument(k).dimensions().begin()[axis]);
  };
  AttentionShape shape{};
  shape.first = static_cast<const int*>(argument(1).untyped_data());
  shape.second = static_cast<const int*>(argument(2).untyped_data());
  shape.pairs = extent(1, 0);
  shape.heads = heads;
  int features = 0;
  for (std::size_t k = 0; k < signature.in.size(); ++k)
    if (signature.in[k].rows == Rows::atoms) {
      shape.rows = extent(3 + k, 0);
      features = extent(3 + k, 1);
    }
  shape.width = features / heads;
  const int count = std::clamp(*static_cast<const int*>(argument(0).untyped_data()), 0, shape.pairs);

  const auto size = [&](Rows rows) {
    return rows == Rows::coefficients ? 2 * static_cast<std::size_t>(shape.pairs) * heads
                                      : static_cast<std::size_t>(rows == Rows::atoms ? shape.rows : shape.pairs) *
                                            static_cast<std::size_t>(features);
  };
  const auto check = [&](const ffi::AnyBuffer& buffer, Rows rows, const std::string& what) {
    if (buffer.element_type() != kDataType<Real> || buffer.element_count() != size(rows))
      throw std::invalid_argument(what + " has " + std::to_string(buffer.element_count()) + " elements, not " +
                                  std::to_string(size(rows)) + ", or is of another type");
  };
  AttentionArrays<Real> arrays{};
  for (std::size_t k = 0; k < signature.in.size(); ++k) {
    const ffi::AnyBuffer buffer = argument(3 + k);
    check(buffer, signature.in[k].rows, "argument " + std::to_string(3 + k));
    arrays.*signature.in[k].place = static_cast<const Real*>(buffer.untyped_data());
  }

  const int tasks = std::max(1, std::min(static_cast<int>(pool.num_threads()), count / kLeastPairs));
  const auto bound = [&](int k) { return static_cast<int>(static_cast<std::int64_t>(count) * k / tasks); };
  // Rows of atoms are added to by all tasks: each has its own, but for the first.
  std::vector<std::vector<Real>> own(static_cast<std::size_t>(tasks));
  std::vector<AttentionArrays<Real>> views(static_cast<std::size_t>(tasks), arrays);
  for (std::size_t k = 0; k < signature.out.size(); ++k) {
    ffi::AnyBuffer buffer = *results.get<ffi::AnyBuffer>(k).value();
    const auto [place, rows] = signature.out[k];
    check(buffer, rows, "result " + std::to_string(k));
    Real* data = static_cast<Real*>(buffer.untyped_data());
    for (auto& view : views) view.*place = data;
    if (rows == Rows::atoms) {
      std::fill_n(data, size(rows), Real(0));
    } else {  // padding
      const std::size_t width = size(rows) / (rows == Rows::pairs ? 1 : 2) / static_cast<std::size_t>(shape.pairs);
      for (std::size_t way = 0; way < (rows == Rows::pairs ? 1 : 2); ++way)
        std::fill(data + (way * static_cast<std::size_t>(shape.pairs) + static_cast<std::size_t>(count)) * width,
                  data + (way + 1) * static_cast<std::size_t>(shape.pairs) * width, Real(0));
    }
  }
  parallel(pool, tasks, [&](int k) {
    const auto task = static_cast<std::size_t>(k);
    if (k > 0) {
      std::size_t place = 0;
      for (const auto& out : signature.out) place += out.rows == Rows::atoms ? size(out.rows) : 0;
      own[task].assign(place, Real(0));
      place = 0;
      for (const auto& out : signature.out)
        if (out.rows == Rows::atoms) {
          views[task].*out.place = own[task].data() + place;
          place += size(out.rows);
        }
    }
    (body<Real>().*signature.function)(shape, Range{bound(k), bound(k + 1)}, views[task]);
  });
  for (std::size_t task = 1; task < own.size(); ++task) {
    const Real* part = own[task].data();
    for (const auto& out : signature.out)
      if (out.rows == Rows::atoms) {
        Real* data = views[0].*out.place;
        for (std::size_t n = 0; n < size(out.rows); ++n) data[n] += *part++;
      }
  }
}

template <Name name>
ffi::Error handle(ffi::ThreadPool pool, ffi::RemainingArgs arguments, ffi::RemainingRets results, std::int64_t heads,
                  std::int64_t real_bytes) {
  const CallOrder order;
  try {
    (real_bytes == 4 ? run<float> : run<double>)(name, pool, arguments, results, static_cast<int>(heads));
  } catch (const std::exception& error) {
    return failed(error);
  }
  return ffi::Error::Success();
}

}  // namespace

#define SO3KRATES_DEFINE_CALL(name)                              \
  XLA_FFI_Error* call_##name(XLA_FFI_CallFrame* frame) {         \
    static auto* handler = ffi::Ffi::Bind()                      \
                               .Ctx<ffi::ThreadPool>()           \
                               .RemainingArgs()                  \
                               .RemainingRets()                  \
                               .Attr<std::int64_t>("heads")      \
                               .Attr<std::int64_t>("real_bytes") \
                               .To(handle<Name::name>)           \
                               .release();                       \
    return handler->Call(frame);                                 \
  }
SO3KRATES_FOR_ATTENTION(SO3KRATES_DEFINE_CALL)

}  // namespace so3krates::kernels
